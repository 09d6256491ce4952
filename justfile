# Shortcuts for people; .ci/run is what has to pass. `just` alone lists them.

[private]
default:
    @just --list --unsorted

# A cluster of one control plane and two workers on loopback, until Ctrl-C
cluster *args:
    cargo run --release -- dev-cluster {{ args }}

# All tests; those of one module with `just test MODULE`
test *args:
    cargo test --locked {{ args }}

# The tests that need neither root nor time: inside the sources, and of sources, documents and recordings
fast:
    cargo test --locked --lib
    cargo test --locked --test it -- architecture:: documents:: generated:: compat::exceptions::

# What takes too long for each change: commands that are killed at each of their flushes, ten switches of agents
nightly:
    MICROK8S_TEST_NIGHTLY=1 cargo test --locked --test it -- killed agent_switch

# The Debian package (needs cargo-deb)
package *args:
    cargo deb --locked {{ args }}

# Joins a second, with few and with many outstanding tokens
bench *args:
    cargo bench --locked --bench joins -- {{ args }}

# What the API server proxy costs, beside haproxy and socat (Debian's packages)
bench-proxy *args:
    cargo bench --locked --bench proxy -- {{ args }}

# What can be checked without running anything
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

# Write completions/, man/ and the generated parts of docs/ again
generate:
    UPDATE_GENERATED=1 cargo test --locked --test it -- generated:: the_document_shows messages:: the_picture

# Licences, bans and sources of the dependencies (needs cargo-deny)
deny:
    cargo deny check bans licenses sources

# Known faults of the dependencies (needs cargo-deny and its database)
audit:
    cargo deny check advisories

# Everything, as a fresh machine would (installs Debian packages, needs root)
ci:
    .ci/run
