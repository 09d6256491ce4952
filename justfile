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

# What takes too long for each change: commands that are killed at each of their flushes, connections that break at every 50 bytes, ten switches of agents, many tokens
nightly:
    MICROK8S_TEST_NIGHTLY=1 cargo test --locked --test it -- killed agent_switch broken_wire token_list token_store each_token_admits

# The Debian package (needs cargo-deb)
package *args:
    cargo deb --locked {{ args }}

# Every figure: writes docs/performance.md and .json in ten minutes; `just bench-all --short` tries it out
bench-all *args:
    cargo bench --locked --bench all -- {{ args }}

# This build and that of another revision, in turns
bench-compare rev:
    git worktree add --detach --force target/bench-compare {{ rev }} 2>/dev/null || git -C target/bench-compare checkout --quiet --detach {{ rev }}
    cargo build --locked --release --manifest-path target/bench-compare/Cargo.toml --target-dir target/bench-compare/target
    cargo bench --locked --bench all -- compare target/bench-compare/target/release/microk8s

# Thousands of workers that join at once: writes docs/scaling.md and .json
bench-bring-up *nodes:
    cargo bench --locked --bench all -- bring-up {{ nodes }}

# Where the agent spends its time: writes docs/flame-graph.svg (needs perf; builds inferno)
flame-graph:
    cargo install --quiet --locked --no-default-features --features cli --root target/inferno inferno
    PATH="$PWD/target/inferno/bin:$PATH" CARGO_PROFILE_BENCH_STRIP=none CARGO_PROFILE_BENCH_DEBUG=1 \
        RUSTFLAGS='-C force-frame-pointers=yes' \
        cargo bench --locked --target-dir target/flame-graph --bench all -- flame-graph

# Whether an agent grows or loses anything while nodes, tokens and certificates come and go
soak minutes="60":
    cargo bench --locked --bench soak -- {{ minutes }}

# Every fuzz target for so many minutes, from the recordings on (needs cargo-fuzz and a nightly toolchain)
fuzz minutes="10":
    FUZZ_CORPUS=fuzz/corpus cargo test --locked --lib fuzzing::
    for target in $(cargo +nightly fuzz list); do cargo +nightly fuzz run -s none $target -- -max_total_time=$(({{ minutes }} * 60)) -timeout=10 -rss_limit_mb=1024 || exit; done

# Workers that join through the tokens in the cluster's API, beside the changes of these alone
bench-shared *args:
    cargo bench --locked --bench shared_joins -- {{ args }}

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
