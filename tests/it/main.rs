//! Integration tests: one binary, a module a behaviour.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so at once; helpers are no #[test] functions"
)]

mod agent_arguments;
mod agent_life;
mod agent_switch;
mod apiserver_proxy;
mod apiserver_proxy_kubernetes;
mod architecture;
mod bad_input;
mod broken_wire;
mod callbacks;
mod certificate_policy;
mod certificates;
mod command_line;
mod compat;
mod completions;
mod configuring;
mod connection_strings;
mod contacted_node;
mod deadline;
mod dev_cluster;
mod documents;
mod etcd_flow;
mod examples;
mod failed_joins;
mod field_usage;
mod first_join;
mod flushes;
mod generated;
mod health;
mod help;
mod hostile_requests;
mod image_import;
mod ipv6;
mod join_options;
mod json_output;
mod keys;
mod killed;
mod kubernetes_removing;
mod lab;
mod late_reports;
mod launch_watch;
mod launching;
mod leaving;
mod limits;
mod local_socket;
mod membership;
mod messages;
mod metrics;
mod node_names;
mod package;
mod passthrough;
mod preflight;
mod real_cluster;
mod real_datastore;
mod real_kubernetes;
mod refreshed;
mod removing;
mod request_costs;
mod request_log;
mod retry_advice;
mod shared_tokens;
mod signing;
mod slow_readers;
mod slowloris;
mod stopping;
mod subprocesses;
mod swarm;
mod terminal;
mod token_clock;
mod token_faults;
mod token_input;
mod token_life;
mod token_list;
mod token_store;
mod tokens;
mod undoing;
mod unit;
mod waiting;
mod walkthrough;
