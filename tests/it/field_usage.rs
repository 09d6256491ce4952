//! What automation in public repositories does with `add-node`, `join`, `leave` and the agent's HTTP interface.
//!
//! The shell lines are those that were found there (U01 to U46 in the names of the tests), reduced to what they rely on, and
//! run by a real shell. `$MICROK8S` is the command on n1, which has two addresses; `$MICROK8S2` that on n2, a fresh
//! node; `$IP` the default address of n1. Where n2 takes part, everything runs twice: with an agent on it and without.
//!
//! One usage cannot be kept as it is: `grep` for a token in `credentials/cluster-tokens.txt` (U25). The agent keeps hashes, and the
//! file has only what others write there. What that usage wants, a token that may be added again and again, holds.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use microk8s::base::wait;

use crate::lab::agent::Agent;
use crate::lab::nodes::HOSTS;
use crate::lab::program::program;
use crate::lab::{Host, Lab, Output, STALL_TIMEOUT, now};

const IP: &str = "10.99.0.11";
const OTHER_IP: &str = "10.98.0.11";
/// A token of the kind that automation makes up beforehand.
const PRESET: &str = "11f5fafb4fabe1e0309e7914d4603a11";

/// Extended regular expressions for the shell lines.
const PREAMBLE: &str =
    r#"T='[0-9a-f]{32}'; F='[0-9a-f]{12}'; P="microk8s join $IP:25000/$T/$F"; export IP T F P; "#;

/// What scripts look for in the merged output of a command; hints must not hold it.
const SEARCHED_FOR: [&str; 4] = [
    "microk8s join ",
    ":25000/",
    "already known to dqlite",
    "acting as a node in a cluster",
];

/// Lines that need n1 alone. Each exits 0, in both shells, with an agent on n1 and without.
macro_rules! add_node_lines {
    ($($name:ident: $line:literal;)*) => {
        $(
            #[test]
            fn $name() {
                add_node_line($line);
            }
        )*
    };
}

add_node_lines! {
    u05_the_first_word_with_the_port_is_the_default_join_string:
        r#"$MICROK8S add-node | tr -s ' ' '\n' | grep -m1 ':25000/' | grep -Exq "$IP:25000/$T/$F""#;
    u08_the_first_command_is_for_the_default_address:
        r#"$MICROK8S add-node | grep -E -m1 'microk8s join ([0-9]{1,3}[\.]){3}[0-9]{1,3}' | grep -Exq "$P""#;
    u46_the_first_command_is_not_the_one_for_workers:
        r#"set -e; $MICROK8S add-node --token-ttl 600 | grep 'microk8s join' | head -1 | grep -Exq "$P""#;
    u09_a_reader_that_goes_away_early_is_no_failure:
        r#"for i in $(seq 30); do bash -o pipefail -c '$MICROK8S add-node | head -1 >/dev/null' || exit 1; done"#;
    u09_a_grep_that_stops_at_its_first_match_is_no_failure:
        r#"for i in $(seq 30); do bash -o pipefail -c '$MICROK8S add-node | grep -m1 "microk8s join" >/dev/null' || exit 1; done"#;
    u12_the_first_match_with_the_flag_is_the_worker_command:
        r#"$MICROK8S add-node | grep -E -m1 'microk8s join.*--worker' | grep -Exq "$P --worker""#;
    u23_the_last_line_with_the_flag_is_the_worker_command:
        r#"$MICROK8S add-node --token-ttl 604800 | grep -- '--worker' | awk '{print $1, $2, $3, $4 }' | tail -n 1 | grep -Exq "$P --worker""#;
    u36_one_line_alone_is_a_worker_command:
        r#"test "$($MICROK8S add-node | grep -coP 'microk8s join.*--worker')" = 1"#;
    u13_short_options_and_the_same_token_twice:
        r#"for i in 1 2; do $MICROK8S add-node -l 300 -t 11f5fafb4fabe1e0309e7914d4603a11 --format short | sed -n 1p | grep -Exq "microk8s join $IP:25000/11f5fafb4fabe1e0309e7914d4603a11/$F" || exit 1; done"#;
    u15_a_sed_that_doubles_the_commands_finds_the_plain_one_third:
        r#"$MICROK8S add-node | sed '/microk8s/p' | sed '3!d' | grep -Exq "$P""#;
    u15_a_sed_that_doubles_the_commands_finds_the_worker_one_sixth:
        r#"$MICROK8S add-node | sed '/microk8s/p' | sed '6!d' | grep -Exq "$P --worker""#;
    u16_a_token_may_have_hyphens:
        r#"$MICROK8S add-node --token 0b3c5d7e-1f2a-4b6c-8d9e-0a1b2c3d --token-ttl 9999999 --format token | grep -Fxq 0b3c5d7e-1f2a-4b6c-8d9e-0a1b2c3d"#;
    u17_a_token_may_be_digits_alone:
        r#"$MICROK8S add-node --token-ttl 3600 --token 12345678901234567890123456789012 >/dev/null"#;
    u06_a_token_may_be_words:
        r#"$MICROK8S add-node --token microk8sisgreatushouldgiveitatry --token-ttl 157680000 >/dev/null"#;
    u21_a_token_may_live_longer_than_31_bits_of_seconds:
        r#"$MICROK8S add-node --token abcdefghijklmnopqrstuvwxyz012345 -l 4294967295 >/dev/null"#;
    u02_u04_a_token_may_live_for_ten_years:
        r#"$MICROK8S add-node --token-ttl 315569260 --token "abcdefghijABCDEFGHIJ.-0123456789" >/dev/null"#;
    u19_short_is_nothing_but_commands:
        r#"$MICROK8S add-node --format short > f && test -s f && ! grep -Evxq "microk8s join [0-9.]+:25000/$T/$F" f"#;
    u19_short_fits_into_json_as_it_is:
        r#"jq -n --arg node_token "$($MICROK8S add-node --format short)" '{"token":$node_token}' | jq -r .token | head -1 | grep -Exq "$P""#;
    u37_the_first_join_string_is_the_default_one:
        r#"$MICROK8S add-node | grep -oP 'microk8s join \K[^ ]+' | head -1 | grep -Exq "$IP:25000/$T/$F""#;
    u22_the_first_url_in_json_is_the_default_one:
        r#"$MICROK8S add-node --format json | jq -r '.urls[0]' | grep -Exq "$IP:25000/$T/$F""#;
    u24_json_has_two_keys_and_the_token_unchanged:
        r#"$MICROK8S add-node --token 0123456789abcdef0123456789abcdef --token-ttl 60 --format json | jq -es 'length == 1 and (.[0] | (keys == ["token","urls"]) and (.token | startswith("0123456789abcdef0123456789abcdef/")))' >/dev/null"#;
    u27_u28_json_alone_is_on_both_streams_together:
        r#"$MICROK8S add-node --format json 2>&1 | jq -es 'length == 1 and (.[0].urls | length == 2 and all(type == "string"))' >/dev/null"#;
    u25_a_token_may_be_added_again_and_again:
        r#"for i in 1 2 3; do $MICROK8S add-node --token fedcba9876543210fedcba9876543210 --token-ttl 315360000 >/dev/null || exit 1; done"#;
    u26_the_help_has_the_flag_only_if_it_is_taken:
        r#"$MICROK8S add-node --help > f 2>&1 || exit 1; ! grep -q -- '--worker' f || $MICROK8S add-node --worker --format short | head -n1 | xargs | grep -Eq "^$P""#;
    u26_the_first_command_is_found_in_both_streams_together:
        r#"$MICROK8S add-node 2>&1 | awk '/microk8s join / {print; exit}' | grep -Exq "$P""#;
    u30_u33_the_second_line_is_the_plain_command:
        r#"$MICROK8S add-node | sed -n '2p' | grep -Exq "$P""#;
    u35_the_second_line_is_found_with_head_and_tail:
        r#"$MICROK8S add-node | head -n 2 | tail -1 | grep -Exq "$P""#;
    u35_no_line_ends_in_a_blank_or_a_carriage_return:
        r#"$MICROK8S add-node > f && ! grep -q '[[:space:]]$' f"#;
    u31_the_last_line_with_the_word_worker_is_the_worker_command:
        r#"$MICROK8S add-node | grep worker | tail -1 | grep -Exq "$P --worker""#;
    u32_u40_the_last_line_is_a_command:
        r#"$MICROK8S add-node | tail -n 1 | grep -Exq "microk8s join [0-9.]+:25000/$T/$F""#;
    u40_the_last_line_fits_between_quotes_of_json:
        r#"printf '{"output": "%s"}' "$($MICROK8S add-node | tail -n 1)" | jq -er .output >/dev/null"#;
    u34_a_match_up_to_the_next_blank_has_the_command_as_its_first_line:
        r#"$MICROK8S add-node | python3 -c "import re,sys; m=re.search(r'microk8s join ${IP%.*.*}[^ ]+', sys.stdin.read()).group(0).split('\n'); sys.exit(not re.fullmatch(r'$P', m[0]))""#;
    u38_u39_short_has_a_line_for_the_default_address:
        r#"$MICROK8S add-node --format short | grep "$IP" | head -1 | grep -Exq "$P""#;
    u41_the_last_word_of_short_is_the_join_string:
        r#"$MICROK8S add-node --format short 2>/dev/null | head -1 | awk '{print $NF}' | grep -Exq "$IP:25000/$T/$F""#;
    stderr_is_empty_in_every_format:
        r#"for format in pretty short token token-check json yaml; do $MICROK8S add-node --format $format 2>err >/dev/null && test ! -s err || exit 1; done"#;
    a_terminal_gets_no_escape_sequence:
        r#"script -qec "$MICROK8S add-node" out >/dev/null && grep -q "microk8s join $IP:25000/" out && ! grep -q "$(printf '\033')" out"#;
    a_terminal_gets_the_same_bytes_as_a_pipe:
        r#"$MICROK8S add-node -l 60 -t 11f5fafb4fabe1e0309e7914d4603a11 > pipe && script -qec "$MICROK8S add-node -l 60 -t 11f5fafb4fabe1e0309e7914d4603a11 2>/dev/null" /dev/null | tr -d '\r' | cmp - pipe"#;
    nothing_is_ever_asked:
        r#"timeout 2 $MICROK8S add-node <&- >/dev/null && timeout 2 script -qec "$MICROK8S add-node" /dev/null </dev/null >/dev/null"#;
    options_go_in_any_order_and_form:
        r#"t=0123456789abcdef0123456789abcdef
           for options in "--token $t --token-ttl 60 --format token" "--format=token --token-ttl=60 --token=$t" "-t $t --format token -l 60" "-l 60 --token=$t --format=token" "--token-ttl -1 -t $t --format token" "--token-ttl=-1 -t $t --format token"; do
               test "$($MICROK8S add-node $options)" = $t || { echo "$options"; exit 1; }
           done"#;
    the_commands_stand_where_scripts_count_on_them:
        r#"$MICROK8S add-node > f || exit 1
           test "$(wc -l < f)" = 9 || exit 2
           for i in 1 4 7; do sed -n ${i}p f | grep -q 'microk8s' && exit 3; done
           for i in 3 6; do test -z "$(sed -n ${i}p f)" || exit 4; done
           sed -n 5p f | grep -Exq "$P --worker" || exit 5
           test "$(grep -n worker f | cut -d: -f1 | tr '\n' ' ')" = '4 5 ' || exit 6
           sed -n 8p f | grep -Exq "$P" || exit 7
           sed -n 9p f | grep -Exq "microk8s join 10.98.0.11:25000/$T/$F" || exit 8"#;
    every_format_has_the_default_address_first:
        r#"$MICROK8S add-node --format short | head -n 1 | grep -Fq " $IP:" || exit 1
           $MICROK8S add-node --format json | jq -r '.urls[0]' | grep -q "^$IP:" || exit 2
           $MICROK8S add-node --format yaml | grep -m1 -e '^- ' | grep -q "^- $IP:" || exit 3
           $MICROK8S add-node | sed -n 2p | grep -q " $IP:" || exit 4"#;
}

fn add_node_line(line: &str) {
    for with_agent in [true, false] {
        let Some(scene) = Scene::new(&["n1"], if with_agent { &["n1"] } else { &[] }) else {
            return;
        };
        scene.n1().add_interface("eth1", &format!("{OTHER_IP}/24"));
        for shell in ["sh", "bash"] {
            let output = scene.line(shell, line);
            assert_eq!(
                output.code,
                Some(0),
                "{shell}, agent {with_agent}: {line}\n{output:?}"
            );
        }
    }
}

/// Lines in which n2 joins. Each exits 0, with an agent on n2 and without.
macro_rules! join_lines {
    ($($name:ident: $line:literal;)*) => {
        $(
            #[test]
            fn $name() {
                with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
                    let output = scene.line("sh", $line);
                    assert_eq!(output.code, Some(0), "{output:?}");
                    assert!(scene.is_member(scene.n2()), "{output:?}");
                });
            }
        )*
    };
}

join_lines! {
    u01_u02_a_node_joins_without_fingerprint_and_joins_again:
        r#"t=$(openssl rand -hex 16); $MICROK8S add-node --token $t --token-ttl 7200 >/dev/null && $MICROK8S2 join $IP:25000/$t && $MICROK8S2 join $IP:25000/$t"#;
    u01_u02_a_worker_joins_without_fingerprint_and_joins_again:
        r#"t=$(openssl rand -hex 16); $MICROK8S add-node --token $t --token-ttl 7200 >/dev/null && $MICROK8S2 join $IP:25000/$t --worker && $MICROK8S2 join $IP:25000/$t --worker"#;
    u18_u43_three_joins_in_a_row_with_a_one_time_token:
        r#"$MICROK8S add-node | grep "$IP" | sed "s#^microk8s#$MICROK8S2#" > j.sh; test "$(wc -l < j.sh)" = 3 && sh j.sh"#;
    u18_three_joins_in_a_row_of_which_none_may_fail:
        r#"$MICROK8S add-node | grep "$IP" | sed "s#^microk8s#$MICROK8S2#" | tee j.sh >/dev/null; bash -xe j.sh"#;
    u43_three_joins_in_a_row_with_a_token_that_lives_on:
        r#"n=3; $MICROK8S add-node --token-ttl $((n * 300)) | grep "$IP" | sed "s#^microk8s#$MICROK8S2#" > j.sh; sh -e j.sh"#;
    u42_a_line_written_by_hand_is_a_token:
        r#"printf 'handwritten-token-0123456789abcdef-0\n' >> "$SNAP_DATA/credentials/cluster-tokens.txt"; $MICROK8S2 join $IP:25000/handwritten-token-0123456789abcdef-0"#;
    u42_a_line_written_by_hand_into_a_new_file_is_a_token:
        r#"rm -f "$SNAP_DATA/credentials/cluster-tokens.txt"; touch "$SNAP_DATA/credentials/cluster-tokens.txt"; echo "token.by.hand-0123456789abcdefghi-7" >> "$SNAP_DATA/credentials/cluster-tokens.txt"; $MICROK8S2 join $IP:25000/token.by.hand-0123456789abcdefghi-7"#;
    u44_leave_in_no_cluster_then_join:
        r#"$MICROK8S2 leave >/dev/null 2>&1; test $? -eq 1 && j=$($MICROK8S add-node --format short | head -1 | sed "s#^microk8s#$MICROK8S2#") && test -n "$j" && $j"#;
    u16_a_token_with_hyphens_lets_in:
        r#"t=0b3c5d7e-1f2a-4b6c-8d9e-0a1b2c3d; $MICROK8S add-node --token $t --token-ttl 9999999 && $MICROK8S2 join $IP:25000/$t --worker"#;
    u17_a_token_of_digits_lets_in:
        r#"t=12345678901234567890123456789012; $MICROK8S add-node --token-ttl 3600 --token $t && $MICROK8S2 join $IP:25000/$t"#;
    u21_a_token_of_a_long_life_lets_in:
        r#"t=abcdefghijklmnopqrstuvwxyz012345; $MICROK8S add-node --token $t -l 4294967295 && $MICROK8S2 join $IP:25000/$t"#;
    u25_a_token_that_is_looked_for_in_the_file_and_added_again_lets_in:
        r#"t=fedcba9876543210fedcba9876543210; for i in 1 2 3; do grep -q $t "$SNAP_DATA/credentials/cluster-tokens.txt" || $MICROK8S add-node --token $t --token-ttl 315360000 || exit 1; done; $MICROK8S2 join $IP:25000/$t --worker"#;
    u22_the_first_url_of_json_lets_a_worker_in:
        r#"URL=$($MICROK8S add-node --format json | jq -r .urls[0]); $MICROK8S2 join $URL --worker"#;
    u38_a_worker_join_or_else_a_plain_one:
        r#"J=$($MICROK8S add-node --format short 2>/dev/null | grep "$IP\|--worker" | head -1 | sed "s#^microk8s#$MICROK8S2#"); $J --worker 2>/dev/null || $J"#;
    u39_the_line_of_short_is_evaluated:
        r#"eval "$($MICROK8S add-node --format short | grep "$IP" | sed "s#^microk8s#$MICROK8S2#") --worker""#;
    u19_all_of_short_is_one_command_where_there_is_one_address:
        r#"$MICROK8S add-node --format short | sed "s#^microk8s#$MICROK8S2#" | bash -c "$(xargs)""#;
    u20_a_program_with_a_limit_of_its_own_runs_the_first_match:
        r#"$MICROK8S add-node | python3 -c '
import os, re, subprocess, sys
words = re.search(r"microk8s join (\S+)", sys.stdin.read()).group(0).split()
sys.exit(subprocess.run([os.environ["MICROK8S2"]] + words[1:], timeout=60).returncode)'"#;
    u12_u36_the_match_of_the_worker_command_is_run:
        r#"$MICROK8S add-node > f; J=$(grep -oP 'microk8s join.*--worker' f | sed "s#^microk8s#$MICROK8S2#"); $J"#;
    u23_the_worker_command_with_skip_verify_behind_it:
        r#"J=$($MICROK8S add-node --token-ttl 604800 | grep -- '--worker' | awk '{print $1, $2, $3, $4 }' | tail -n 1 | sed "s#^microk8s#$MICROK8S2#"); $J --skip-verify"#;
    u35_a_line_with_or_true_behind_it:
        r#"$MICROK8S add-node | head -2 | tail -1 | sed "s#^microk8s#$MICROK8S2#" > f; sed -i "s/$/ || true/" f; sh -e f"#;
    u02_a_list_of_addresses_is_tried_until_one_answers:
        r#"t=$(openssl rand -hex 16); $MICROK8S add-node --token-ttl 315569260 --token "$t" >/dev/null
           bash -xec "for address in 10.99.0.11:30000 10.99.0.12:25001 10.99.0.11:25000; do if $MICROK8S2 join \"\$address/$t\" --worker; then exit 0; fi; done; exit 1""#;
}

#[test]
fn u08_u11_a_member_that_joins_again_stays_as_it_is_and_costs_no_token() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        for role in ["", " --worker"] {
            let (joiner, n1) = (
                if role.is_empty() {
                    scene.n2()
                } else {
                    scene.n3()
                },
                scene.n1(),
            );
            let first_line = || {
                n1.shell(r"microk8s add-node | grep -E -m1 'microk8s join ([0-9]{1,3}[\.]){3}[0-9]{1,3}'").ok()
            };
            joiner
                .shell(&format!("{}{role}", first_line().trim_end()))
                .ok();
            let spare = first_line();
            let (before, n1_before) = (joiner.snapshot(), n1.snapshot());
            joiner.stand_ins.forget_calls();

            let again = joiner.shell(&format!("{}{role}", spare.trim_end()));

            assert_eq!(again.code, Some(0), "{again:?}");
            assert!(joiner.snapshot() == before, "the member changed");
            assert!(n1.snapshot() == n1_before, "the contacted node changed");
            let services = joiner.stand_ins.calls();
            assert!(
                !services.iter().any(|call| call.starts_with("snapctl")),
                "{services:?}"
            );
        }
    });
}

#[test]
fn u11_the_token_of_a_join_that_was_not_needed_serves_another_node() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let line = || scene.n1().shell("microk8s add-node --format short").ok();
        scene.n2().shell(&line()).ok();
        let spare = line();
        scene.n2().shell(&spare).ok();
        scene.n3().shell(&spare).ok();
        assert!(scene.is_member(scene.n3()));
    });
}

#[test]
fn u18_u29_u43_the_later_ones_of_three_joins_change_neither_role_nor_services() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let lines = scene
            .n1()
            .shell(&format!("microk8s add-node | grep {IP}"))
            .ok();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3);
        scene.n2().shell(lines[0]).ok();
        let before = scene.n2().snapshot();
        scene.n2().stand_ins.forget_calls();
        for line in &lines[1..] {
            let output = scene.n2().shell(line);
            assert_eq!(output.code, Some(0), "{line}: {output:?}");
            assert_clean_hints(&output);
        }
        assert!(
            scene.n2().snapshot() == before,
            "a later join changed the node"
        );
        let calls = scene.n2().stand_ins.calls();
        assert!(
            !calls.iter().any(|call| call.starts_with("snapctl")),
            "{calls:?}"
        );
        assert!(
            !scene.n2().path("var/lock/clustered.lock").exists(),
            "it became a worker"
        );
    });
}

#[test]
fn u29_two_nodes_run_all_three_lines_at_the_same_time() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let lines = scene
            .n1()
            .shell(&format!(
                "microk8s add-node -l 9999 -t $(openssl rand -hex 16) | grep {IP}"
            ))
            .ok();
        thread::scope(|scope| {
            for host in [scene.n2(), scene.n3()] {
                let lines = &lines;
                scope.spawn(move || host.shell(&format!("set -e\n{lines}")).ok());
            }
        });
        assert!(scene.is_member(scene.n2()) && scene.is_member(scene.n3()));
    });
}

#[test]
fn u06_nodes_join_at_the_same_moment_with_one_token() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let token = "microk8sisgreatushouldgiveitatry";
        scene
            .n1()
            .shell(&format!(
                "microk8s add-node --token {token} --token-ttl 157680000"
            ))
            .ok();
        thread::scope(|scope| {
            for (host, role) in [(scene.n2(), ""), (scene.n3(), "--worker")] {
                scope.spawn(move || {
                    host.shell(&format!("microk8s join {IP}:25000/{token} {role}"))
                        .ok()
                });
            }
        });
        assert!(scene.is_member(scene.n2()) && scene.is_member(scene.n3()));
    });
}

#[test]
fn u10_several_one_time_tokens_are_good_at_once() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let lines = [(); 5].map(|()| scene.n1().shell("microk8s add-node --format short").ok());
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), 5);
        thread::scope(|scope| {
            for (host, line) in [(scene.n2(), &lines[3]), (scene.n3(), &lines[1])] {
                scope.spawn(move || {
                    host.shell(&format!("{} --skip-verify", line.trim_end()))
                        .ok()
                });
            }
        });
        assert!(scene.is_member(scene.n2()) && scene.is_member(scene.n3()));
    });
}

#[test]
fn u34_the_match_across_line_ends_run_by_a_shell_is_a_join_and_an_unknown_command() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let text = scene.n1().shell("microk8s add-node").ok();
        let start = text.find("microk8s join 10.99").unwrap();
        let length = text[start..].match_indices(' ').nth(2).unwrap().0;
        let found = &text[start..start + length];
        assert!(found.ends_with("\n\nUse"), "{found:?}");
        assert_eq!(scene.n2().shell(found).code, Some(127));
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn u31_a_host_name_in_the_join_string_is_refused_and_nothing_changes() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let line = scene
            .n1()
            .shell("microk8s add-node | grep worker | tail -1")
            .ok()
            .replace(IP, "n1");
        let before = scene.n2().snapshot();
        let output = scene.n2().shell(&line);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (Some(1), "Invalid connection: Invalid master IP\n")
        );
        assert_clean_hints(&output);
        assert!(scene.n2().snapshot() == before);
    });
}

#[test]
fn u35_the_fingerprint_holds_for_every_address_of_the_node() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene.n1().add_address("10.99.0.111/24");
        let line = scene
            .n1()
            .shell("microk8s add-node | sed -n 2p")
            .ok()
            .replace(IP, "10.99.0.111");
        scene.n2().shell(&line).ok();
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn u04_the_address_may_be_a_virtual_one_that_only_later_belongs_to_a_node() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene
            .n1()
            .shell(&format!(
                "microk8s add-node --token-ttl 315569260 --token {PRESET}"
            ))
            .ok();
        let line = format!("microk8s join 10.99.0.200:25000/{PRESET} --worker");
        let early = scene.n2().shell(&line);
        assert_eq!(early.code, Some(10), "{early:?}");
        assert_clean_hints(&early);
        scene.n1().add_address("10.99.0.200/32");
        scene.n2().shell(&line).ok();
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn u02_u04_a_loop_around_join_ends_when_the_token_arrives() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let before = scene.n2().snapshot();
        let join = format!("microk8s join {IP}:25000/{PRESET}");
        for _ in 0..3 {
            let early = scene.n2().shell(&join);
            assert_eq!(early.code, Some(6), "{early:?}");
            assert!(
                early
                    .stdout
                    .ends_with("\nConnection failed. Invalid token (500).\n"),
                "{early:?}"
            );
            assert_clean_hints(&early);
            assert!(
                scene.n2().snapshot() == before,
                "a refused join changed the node"
            );
        }
        thread::scope(|scope| {
            let looping = scope.spawn(|| {
                scene.n2().shell(&format!("n=0; while ! {join} >/dev/null 2>&1; do n=$((n + 1)); test $n -lt 400 || exit 1; done"))
            });
            scene
                .n1()
                .shell(&format!(
                    "microk8s add-node --token-ttl 315569260 --token {PRESET}"
                ))
                .ok();
            looping.join().unwrap().ok();
        });
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn attempts_with_a_token_that_is_not_there_do_not_keep_the_first_good_one_out() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let join = format!("microk8s join {IP}:25000/{PRESET} --worker");
        thread::scope(|scope| {
            for host in [scene.n2(), scene.n3()] {
                let many = format!(
                    "for i in $(seq 60); do {join} >/dev/null 2>&1; test $? = 6 || exit 1; done"
                );
                scope.spawn(move || host.shell(&many).ok());
            }
        });
        scene
            .n1()
            .shell(&format!(
                "microk8s add-node --token-ttl 600 --token {PRESET}"
            ))
            .ok();
        for host in [scene.n2(), scene.n3()] {
            host.shell(&join).ok();
        }
    });
}

#[test]
fn u02_the_token_added_again_on_the_second_control_plane_lets_a_node_in_there() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let add = format!("microk8s add-node --token-ttl 315569260 --token \"{PRESET}\"");
        scene.n1().shell(&add).ok();
        scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{PRESET}"))
            .ok();
        scene.n2().shell(&add).ok();
        let late = scene.agents.len() == 1;
        let _agent = late.then(|| scene.n2().agent());
        scene.n2().shell(&add).ok();
        scene
            .n3()
            .shell(&format!("microk8s join 10.99.0.12:25000/{PRESET}"))
            .ok();
        assert!(scene.is_member(scene.n3()));
    });
}

#[test]
fn u14_the_datastore_of_a_node_that_joined_is_no_longer_on_loopback() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene
            .n1()
            .shell(&format!(
                "microk8s add-node --token {PRESET} --token-ttl 600"
            ))
            .ok();
        scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{PRESET}"))
            .ok();
        for host in [scene.n1(), scene.n2()] {
            let backend = host.read("var/kubernetes/backend/cluster.yaml")
                + &host.read("var/kubernetes/backend/info.yaml");
            assert!(!backend.contains("127.0.0.1"), "{}: {backend}", host.name);
        }
    });
}

#[test]
fn u15_a_one_time_token_is_good_for_a_second_try_after_a_join_that_failed() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let line = scene
            .n1()
            .shell("microk8s add-node | sed '/microk8s/p' | sed '3!d'")
            .ok();
        let line = format!("{} --controlplane", line.trim_end());
        let before = scene.n2().snapshot();

        // Refused by the other node, for a reason that comes after the look at the token.
        scene.n1().remove("var/lock/ha-cluster");
        let refused = scene.n2().shell(&line);
        assert_eq!(refused.code, Some(6), "{refused:?}");
        assert_clean_hints(&refused);
        scene.n1().write("var/lock/ha-cluster", "", 0o644);
        assert!(
            scene.n2().snapshot() == before,
            "the refused join changed the node"
        );

        // Failed on this node, half way.
        scene
            .n2()
            .stand_ins
            .fail_service("start", "microk8s.daemon-k8s-dqlite");
        let failed = scene.n2().shell(&line);
        assert!(!matches!(failed.code, Some(0) | None), "{failed:?}");
        assert_clean_hints(&failed);
        scene.n2().stand_ins.repair_services();
        assert!(
            scene.n2().snapshot() == before,
            "the failed join changed the node"
        );

        scene.n2().shell(&line).ok();
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn u38_a_failed_worker_join_says_why_and_leaves_the_token_to_the_plain_join() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let join = scene.n1().shell("microk8s add-node --format short").ok();
        let join = join.trim_end();
        scene
            .n2()
            .stand_ins
            .fail_service("restart", "microk8s.daemon-kubelite");
        let failed = scene.n2().shell(&format!("{join} --worker"));
        assert!(!matches!(failed.code, Some(0) | None), "{failed:?}");
        assert!(
            failed.stderr.contains("kubelite"),
            "the reason is not plain: {failed:?}"
        );
        assert_clean_hints(&failed);
        scene.n2().stand_ins.repair_services();
        scene.n2().shell(join).ok();
        assert!(scene.is_member(scene.n2()));
        assert!(
            !scene.n2().path("var/lock/clustered.lock").exists(),
            "it is a worker"
        );
    });
}

#[test]
fn u08_the_phrase_for_an_address_that_the_datastore_knows_is_on_stdout() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene
            .n1()
            .stand_ins
            .dqlite_lists(&["10.99.0.11:19001", "10.99.0.12:19001"]);
        let list = "- Address: 10.99.0.11:19001\n  ID: 1\n  Role: 0\n- Address: 10.99.0.12:19001\n  ID: 2\n  Role: 0\n";
        scene
            .n1()
            .write("var/kubernetes/backend/cluster.yaml", list, 0o644);
        for role in ["", " --worker"] {
            let line = scene.n1().shell("microk8s add-node --format short").ok();
            let output = scene.n2().shell(&format!("{}{role}", line.trim_end()));
            assert_eq!(output.code, Some(6), "{output:?}");
            assert!(
                output.stdout.contains("already known to dqlite"),
                "{output:?}"
            );
            assert_clean_hints(&output);
        }
    });
}

#[test]
fn u10_flags_stand_before_or_after_the_join_string() {
    for flags in [
        "--worker",
        "--controlplane",
        "--skip-verify",
        "--worker --skip-verify",
    ] {
        with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
            let url = scene
                .n1()
                .shell("microk8s add-node -l 600 --format json | jq -r .urls[0]")
                .ok();
            let url = url.trim_end();
            scene
                .n2()
                .shell(&format!("microk8s join {flags} {url}"))
                .ok();
            scene
                .n3()
                .shell(&format!("microk8s join {url} {flags}"))
                .ok();
            assert!(
                scene.is_member(scene.n2()) && scene.is_member(scene.n3()),
                "{flags}"
            );
        });
    }
}

#[test]
fn u01_a_join_without_fingerprint_warns_in_one_line_on_stderr() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene
            .n1()
            .shell(&format!(
                "microk8s add-node --token {PRESET} --token-ttl 7200"
            ))
            .ok();
        let output = scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{PRESET} --worker"));
        assert_eq!(output.code, Some(0), "{output:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
        assert!(
            !output.stdout.to_lowercase().contains("fingerprint"),
            "{output:?}"
        );
        assert_clean_hints(&output);
    });
}

#[test]
fn u05_u24_u41_the_dotted_names_do_what_the_words_do() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        for host in [scene.n1(), scene.n2()] {
            for word in ["add-node", "join", "leave"] {
                symlink(
                    program(),
                    host.stand_ins.bin().join(format!("microk8s.{word}")),
                )
                .unwrap();
            }
        }
        let leave = scene.n2().shell("microk8s.leave");
        assert_eq!(leave.code, Some(1), "{leave:?}");
        let strings = scene.n1().shell("microk8s.add-node").ok();
        let url = strings
            .split_whitespace()
            .find(|word| word.contains(":25000/"))
            .unwrap();
        scene
            .n2()
            .shell(&format!("microk8s.join {url} --worker"))
            .ok();
        assert!(scene.is_member(scene.n2()));
        let help = scene.n1().shell("microk8s.add-node --help").ok();
        assert_eq!(help, scene.n1().shell("microk8s add-node --help").ok());
    });
}

#[test]
fn u44_leave_in_no_cluster_fails_and_changes_nothing() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let before = scene.n2().snapshot();
        let output = scene.n2().shell("microk8s leave");
        assert_eq!(output.code, Some(1), "{output:?}");
        assert_eq!(
            output.stdout,
            "This MicroK8s deployment is not acting as a node in a cluster.\n"
        );
        scene
            .n2()
            .shell("microk8s leave >/dev/null 2>&1 || true")
            .ok();
        assert!(scene.n2().snapshot() == before);
        assert_eq!(scene.n2().stand_ins.calls(), Vec::<String>::new());
    });
}

#[test]
fn u07_a_persistent_token_works_any_number_of_times_and_may_be_written_at_any_moment() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let file = "credentials/persistent-cluster-tokens.txt";
        scene.n1().write(file, "", 0o600);
        let path = scene.n1().path(file);
        scene
            .n1()
            .shell(&format!(
                "echo persistent-0123456789abcdef0123456789 >> {}",
                path.display()
            ))
            .ok();
        for host in [scene.n2(), scene.n3()] {
            host.shell(&format!(
                "microk8s join {IP}:25000/persistent-0123456789abcdef0123456789 --worker"
            ))
            .ok();
        }
        assert_eq!(
            scene.n1().read(file),
            "persistent-0123456789abcdef0123456789\n"
        );
    });
}

#[test]
fn u24_u42_a_line_taken_out_of_the_token_file_is_no_token_any_more() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let file = "credentials/cluster-tokens.txt";
        let (kept, revoked) = (
            "kept-by-hand-0123456789abcdef01234",
            "revoked-by-hand-0123456789abcdef01",
        );
        scene
            .n1()
            .write(file, &format!("{revoked}|{}\n{kept}\n", now() + 600), 0o660);
        scene.n1().write(file, &format!("{kept}\n"), 0o660);
        let refused = scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{revoked}"));
        assert_eq!(refused.code, Some(6), "{refused:?}");
        scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{kept}"))
            .ok();
    });
}

#[test]
fn u42_a_line_written_by_hand_lets_one_node_in_and_no_other() {
    with_and_without_an_agent_on_n2(&["n1", "n2", "n3"], |scene| {
        let token = "handwritten-token-0123456789abcdef-0";
        let path = scene.n1().path("credentials/cluster-tokens.txt");
        scene
            .n1()
            .shell(&format!("echo {token} >> {}", path.display()))
            .ok();
        scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{token}"))
            .ok();
        let second = scene
            .n3()
            .shell(&format!("microk8s join {IP}:25000/{token}"));
        assert_eq!(second.code, Some(6), "{second:?}");
        assert!(
            second
                .stdout
                .ends_with("Connection failed. Invalid token (500).\n"),
            "{second:?}"
        );
    });
}

#[test]
fn u13_a_token_added_twice_is_good_until_the_end_that_was_given_last() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        for ttl in ["1", "600"] {
            scene
                .n1()
                .shell(&format!("microk8s add-node -t {PRESET} -l {ttl}"))
                .ok();
        }
        let short_one_ended = now() + 2;
        wait_until("the shorter life is over", || now() > short_one_ended);
        scene
            .n2()
            .shell(&format!("microk8s join {IP}:25000/{PRESET}"))
            .ok();
    });
}

#[test]
fn u13_a_token_added_again_after_its_end_is_good_again() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let add = |ttl: &str| {
            scene
                .n1()
                .shell(&format!(
                    "microk8s add-node -l {ttl} -t {PRESET} --format short"
                ))
                .ok()
        };
        let line = add("1");
        let ended = now() + 2;
        wait_until("the token is over", || now() > ended);
        let refused = scene.n2().shell(&line);
        assert_eq!(refused.code, Some(6), "{refused:?}");
        assert!(
            refused
                .stdout
                .ends_with("Connection failed. Invalid token (500).\n"),
            "{refused:?}"
        );
        scene.n2().shell(&add("300")).ok();
    });
}

#[test]
fn u20_a_join_killed_at_any_service_call_leaves_a_node_on_which_the_next_join_works() {
    join_killed_at_each_service_call(&["n1"]);
}

#[test]
fn u20_a_join_killed_while_an_agent_does_it_leaves_a_node_on_which_the_next_join_works() {
    join_killed_at_each_service_call(&["n1", "n2"]);
}

fn join_killed_at_each_service_call(agents: &[&str]) {
    let as_control_plane = [
        "restart microk8s.daemon-kubelite",
        "stop microk8s.daemon-kubelite",
        "stop microk8s.daemon-k8s-dqlite",
        "start microk8s.daemon-k8s-dqlite",
        "start microk8s.daemon-kubelite",
    ];
    let as_worker = [
        "restart microk8s.daemon-kubelite",
        "restart microk8s.daemon-k8s-dqlite",
    ];
    let calls = as_control_plane.map(|call| (call, "")).into_iter();
    for (call, role) in calls.chain(as_worker.map(|call| (call, "--worker"))) {
        let Some(scene) = Scene::new(&["n1", "n2"], agents) else {
            return;
        };
        let line = scene.n1().shell("microk8s add-node --format short").ok();
        let line = format!("{} {role}", line.trim_end());
        let held = Held::at(scene.n2(), call);
        let mut join = scene.start_on(scene.n2(), &line);
        wait_until(call, || held.is_reached());
        join.kill().unwrap();
        join.wait().unwrap();
        held.release();

        let next = scene.n2().shell(&line);

        assert_eq!(next.code, Some(0), "killed at `{call}` {role}: {next:?}");
        assert!(
            scene.is_member(scene.n2()),
            "killed at `{call}` {role}: {next:?}"
        );
    }
}

#[test]
fn u20_a_join_killed_while_it_is_taken_back_leaves_the_node_as_it_was() {
    let Some(scene) = Scene::new(&["n1", "n2"], &["n1"]) else {
        return;
    };
    let before = scene.n2().snapshot();
    let line = scene.n1().shell("microk8s add-node --format short").ok();
    scene
        .n2()
        .stand_ins
        .fail_service("start", "microk8s.daemon-k8s-dqlite");
    // The join itself stops and starts this service; a restart is part of taking it back.
    let held = Held::at(scene.n2(), "restart microk8s.daemon-k8s-dqlite");
    let mut join = scene.start_on(scene.n2(), &line);
    wait_until("the join is taken back", || held.is_reached());
    join.kill().unwrap();
    join.wait().unwrap();
    held.release();
    scene.n2().stand_ins.repair_services();

    let refused = scene
        .n2()
        .shell(&format!("microk8s join {IP}:25000/{PRESET}"));

    assert_eq!(refused.code, Some(6), "{refused:?}");
    let after = scene.n2().snapshot();
    let lost: Vec<&String> = before
        .nodes
        .keys()
        .filter(|path| !after.nodes.contains_key(*path))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(after == before, "the node is not as it was");
    scene.n2().shell(&line).ok();
    assert!(scene.is_member(scene.n2()));
}

#[test]
fn u04_a_join_that_failed_leaves_nothing_running() {
    let Some(scene) = Scene::new(&["n1", "n2"], &["n1"]) else {
        return;
    };
    for string in [
        format!("{IP}:25000/{PRESET}"),
        format!("{IP}:25001/{PRESET}"),
        "nonsense".to_owned(),
    ] {
        let output = scene.n2().shell(&format!("microk8s join {string}"));
        assert_ne!(output.code, Some(0), "{output:?}");
        assert_clean_hints(&output);
        let left = Command::new("ip")
            .args(["netns", "pids", scene.n2().namespace()])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&left.stdout),
            "",
            "after `{string}`"
        );
    }
}

#[test]
fn u04_a_failure_is_told_in_one_line_and_a_hint() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        let good = scene
            .n1()
            .shell("microk8s add-node -l 600 --format json | jq -r .urls[0]")
            .ok();
        let good = good.trim_end();
        let wrong_fingerprint = format!("{}/000000000000", good.rsplit_once('/').unwrap().0);
        for (string, code) in [
            (format!("{IP}:25000/{PRESET}"), 6),
            (wrong_fingerprint, 4),
            (format!("{IP}:25999/{PRESET}"), 10),
        ] {
            let output = scene.n2().shell(&format!("microk8s join {string}"));
            assert_eq!(output.code, Some(code), "{string}: {output:?}");
            assert_clean_hints(&output);
            assert!(
                !output.stderr.contains("Traceback") && !output.stderr.contains("panicked"),
                "{output:?}"
            );
            let kinds: Vec<&str> = output
                .stderr
                .lines()
                .map(|line| line.split(": ").next().unwrap_or_default())
                .collect();
            assert!(
                kinds
                    .iter()
                    .all(|kind| ["error", "failed stage", "hint", "warning"].contains(kind)),
                "{string}: {output:?}"
            );
            assert!(
                kinds.iter().filter(|kind| **kind == "error").count() <= 1,
                "{string}: {output:?}"
            );
            assert!(kinds.contains(&"hint"), "{string}: {output:?}");
        }
    });
}

#[test]
fn a_node_that_the_datastore_lists_late_joins_all_the_same() {
    with_and_without_an_agent_on_n2(&["n1", "n2"], |scene| {
        scene.n2().stand_ins.dqlite_lists(&["10.99.0.11:19001"]);
        let line = scene.n1().shell("microk8s add-node --format short").ok();
        thread::scope(|scope| {
            let joining = scope.spawn(|| scene.n2().shell(&line));
            let asked = || {
                scene
                    .n2()
                    .stand_ins
                    .calls()
                    .iter()
                    .filter(|call| call.starts_with("dqlite"))
                    .count()
            };
            wait_until(
                "the datastore was asked for the node more than once",
                || asked() > 2,
            );
            assert!(!joining.is_finished());
            scene
                .n2()
                .stand_ins
                .dqlite_lists(&["10.99.0.11:19001", "10.99.0.12:19001"]);
            joining.join().unwrap().ok();
        });
        assert!(scene.is_member(scene.n2()));
    });
}

#[test]
fn u03_a_body_is_json_whatever_its_content_type_says() {
    let Some(scene) = Scene::new(&["n1", "n2"], &["n1"]) else {
        return;
    };
    let types = [
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: text/plain",
        "Content-Type: nonsense",
        "Content-Type:",
    ];
    for route in ["v2.0/join", "v1.0/join", "v1.0/sign-cert"] {
        for header in types {
            let (status, body) = post(
                scene.n2(),
                route,
                header,
                r#"{"token": "nope", "hostname": "n2"}"#,
            );
            assert_eq!(
                (status.as_str(), body.as_str()),
                ("500", r#"{"error":"Invalid token","reason":"unknown"}"#),
                "{route}, {header}"
            );
        }
    }
    for header in types {
        let token = scene.n1().shell("microk8s add-node --format token").ok();
        let request = format!(
            r#"{{"token": "{}", "hostname": "n2", "port": "25000", "worker": "as-worker", "can_handle_x509_auth": true, "can_handle_custom_etcd": true}}"#,
            token.trim_end()
        );
        let (status, body) = post(scene.n2(), "v2.0/join", header, &request);
        assert_eq!(status, "200", "{header}: {body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["hostname_override"], "10.99.0.12");
    }
}

/// What curl gets for this body, sent from a host to the agent of n1.
fn post(from: &Host, route: &str, header: &str, body: &str) -> (String, String) {
    let url = format!("https://{IP}:25000/cluster/api/{route}");
    let output = from
        .run(&[
            "curl",
            "-sk",
            "-w",
            "\n%{http_code}",
            "-X",
            "POST",
            "-H",
            header,
            "-d",
            body,
            &url,
        ])
        .ok();
    let (body, status) = output.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// Fails when stderr holds what scripts search the merged output for.
#[track_caller]
fn assert_clean_hints(output: &Output) {
    for phrase in SEARCHED_FOR {
        assert!(
            !output.stderr.contains(phrase),
            "`{phrase}` on stderr: {output:?}"
        );
    }
}

/// Hosts, agents on some of them, and the commands of n1 and n2 for scripts that run on neither.
struct Scene {
    agents: Vec<Agent>,
    lab: Lab,
    commands: tempfile::TempDir,
}

impl Scene {
    fn new(hosts: &[&str], with_agents: &[&str]) -> Option<Self> {
        let lab = Lab::new(hosts)?;
        let agents = with_agents
            .iter()
            .map(|name| lab.host(name).agent())
            .collect();
        let commands = tempfile::tempdir().unwrap();
        for host in lab.hosts() {
            let path = commands.path().join(&host.name).join("microk8s");
            fs::create_dir(path.parent().unwrap()).unwrap();
            write_program(&path, &command_file(host));
        }
        fs::create_dir(commands.path().join("work")).unwrap();
        Some(Self {
            agents,
            lab,
            commands,
        })
    }

    fn n1(&self) -> &Host {
        self.lab.host("n1")
    }

    fn n2(&self) -> &Host {
        self.lab.host("n2")
    }

    fn n3(&self) -> &Host {
        self.lab.host("n3")
    }

    fn command(&self, host: &str) -> PathBuf {
        self.commands.path().join(host).join("microk8s")
    }

    /// Runs a line in a shell of the machine that the hosts are on, as a script that drives them from outside would.
    fn line(&self, shell: &str, line: &str) -> Output {
        let began = now();
        let output = Command::new("timeout")
            .args([
                "--kill-after=5",
                "120",
                shell,
                "-c",
                &format!("{PREAMBLE}{line}"),
            ])
            .env("MICROK8S", self.command("n1"))
            .env("MICROK8S2", self.command("n2"))
            .env("IP", IP)
            .env("SNAP_DATA", self.n1().snap_data())
            .env("LC_ALL", "C.UTF-8")
            .current_dir(self.commands.path().join("work"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_ne!(output.status.code(), Some(124), "`{line}` does not end");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            began,
            ended: now(),
        }
    }

    /// Starts the words of a line on a host and does not wait. Killing the child kills the command itself.
    fn start_on(&self, host: &Host, line: &str) -> Child {
        let words: Vec<&str> = line.split_whitespace().collect();
        host.command(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Whether a node belongs to the cluster of n1, as a worker or as a control plane.
    fn is_member(&self, host: &Host) -> bool {
        if host.path("var/lock/clustered.lock").exists() {
            return host.read("certs/ca.remote.crt") == self.n1().read("certs/ca.crt");
        }
        let (_, address) = HOSTS
            .into_iter()
            .find(|(name, _)| *name == host.name)
            .unwrap();
        let datastore = host.read("var/kubernetes/backend/cluster.yaml");
        host.read("certs/ca.crt") == self.n1().read("certs/ca.crt")
            && datastore.contains(&format!("{address}:19001"))
    }
}

/// Runs a test with an agent on n1, and with an agent on n2 as well or none.
fn with_and_without_an_agent_on_n2(hosts: &[&str], test: impl Fn(&Scene)) {
    for agents in [&["n1"][..], &["n1", "n2"]] {
        let Some(scene) = Scene::new(hosts, agents) else {
            return;
        };
        eprintln!("with agents on {agents:?}");
        test(&scene);
    }
}

/// A shell script that is the program on a host: the same words and environment as [`Host::command`].
fn command_file(host: &Host) -> String {
    let quote =
        |text: &std::ffi::OsStr| format!("'{}'", text.to_str().unwrap().replace('\'', r"'\''"));
    let command = host.command(&["microk8s"]);
    let environment: String = command
        .get_envs()
        .filter_map(|(name, value)| {
            Some(format!(
                " {}",
                quote(&[name, value?].join(std::ffi::OsStr::new("=")))
            ))
        })
        .collect();
    let entering = host.entering().join(" ");
    format!("#!/bin/sh\numask 022\nexec env -i{environment} {entering} microk8s \"$@\"\n")
}

/// Writes a script that can be run at once. Another process writes it: a file that this one has open for writing may be
/// open in the children of its other threads as well, and cannot be run while it is.
fn write_program(path: &Path, script: &str) {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    install
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(install.wait().unwrap().success());
}

/// A service call of a host that hangs until it is released.
pub struct Held {
    reached: PathBuf,
    hold: PathBuf,
}

impl Held {
    /// From now on `snapctl <call>` hangs, the first time and every time.
    pub fn at(host: &Host, call: &str) -> Self {
        let bin = host.stand_ins.bin();
        let (reached, hold) = (host.scratch().join("reached"), host.scratch().join("hold"));
        fs::write(&hold, "").unwrap();
        fs::rename(bin.join("snapctl"), bin.join("snapctl.at-once")).unwrap();
        let script = format!(
            "#!/bin/sh\nif [ \"$*\" = '{call}' ]; then\n: > {reached}\nwhile [ -e {hold} ]; do sleep 0.02; done\nfi\nexec {bin}/snapctl.at-once \"$@\"\n",
            reached = reached.display(),
            hold = hold.display(),
            bin = bin.display(),
        );
        write_program(&bin.join("snapctl"), &script);
        Self { reached, hold }
    }

    pub fn is_reached(&self) -> bool {
        self.reached.exists()
    }

    pub fn release(self) {
        fs::remove_file(self.hold).unwrap();
    }
}

/// Waits until something holds.
#[track_caller]
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let found = wait::until(STALL_TIMEOUT, Duration::from_millis(20), || {
        holds().then_some(())
    });
    assert!(found.is_some(), "still waiting: {what}");
}
