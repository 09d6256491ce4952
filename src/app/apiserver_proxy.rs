//! `microk8s apiserver-proxy`, from what was typed to the exit status.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use crate::agent::apiserver_proxy::{self, ProxyError, Settings};
use crate::app::log::LastWords;
use crate::app::{self, log};
use crate::base::exit_status::ExitStatus;
use crate::cli;
use crate::cli::apiserver_proxy::ApiserverProxyArgs;
use crate::cli::go_flags::{self, Unknown};
use crate::cli::output::{self, Printer};
use crate::cluster::node::{Node, parse_bind};
use crate::store::traefik;

const NAME: &str = "apiserver-proxy";
/// MicroK8s's default of `--refresh-interval`, in seconds.
const REFRESH_INTERVAL: u64 = 30;

/// Runs the proxy. MicroK8s's own wrapper starts it with the arguments of its own proxy.
pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let command = cli::subcommand(NAME);
    let read = |words| go_flags::read(&command, words, Unknown::LeftOut);
    let node = match app::find_node_or_say(printer) {
        Ok(node) => node,
        Err(status) => return status,
    };
    let typed = read(arguments.clone());
    if let Err(error) = cli::read::<ApiserverProxyArgs>(NAME, typed.words) {
        return app::refuse_arguments(&error, printer);
    }
    // What is typed comes last, and counts.
    let path = node.layout.args(NAME);
    let mut words: Vec<OsString> = node.arguments(NAME).map_or_else(
        |_| Vec::new(),
        |file| {
            node.command_line(&file)
                .into_iter()
                .map(OsString::from)
                .collect()
        },
    );
    words.extend(arguments);
    let words = read(words);
    let args: ApiserverProxyArgs = match cli::read(NAME, words.words) {
        Ok(args) => args,
        Err(error) => {
            let error = error.to_string();
            let why = error.trim_end().trim_start_matches("error: ");
            let text = format!("`{}`: {why}", path.display());
            output::error(&mut LastWords(printer), &text, None);
            return ExitStatus::Usage;
        }
    };
    log::start(args.log_format);
    for line in words.left_out {
        tracing::warn!("{line}");
    }
    let outcome = settings(&node, args).and_then(|settings| {
        apiserver_proxy::run(&settings).map_err(|error| (error.to_string(), hint(&error)))
    });
    match outcome {
        Ok(()) => ExitStatus::Success,
        Err((text, hint)) => {
            output::error(&mut LastWords(printer), &text, hint);
            ExitStatus::Failure
        }
    }
}

/// Why the proxy does not run, and what to do.
type Refusal = (String, Option<&'static str>);

fn hint(error: &ProxyError) -> Option<&'static str> {
    match error {
        ProxyError::NoList { .. } => Some(
            "a node has this file when it has joined as a worker, and needs no proxy otherwise: join, or write the addresses of API servers into it",
        ),
        ProxyError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some(
            "another proxy runs here, or this is a control plane node, which needs none; `ss -tlnp` names the program",
        ),
        ProxyError::Listen { .. } => {
            Some("give the entry point `apiserver` an address of this machine in the configuration")
        }
        ProxyError::Runtime(_) => None,
    }
}

/// What the configuration says, or what is wrong with it and what to do.
fn settings(node: &Node, args: ApiserverProxyArgs) -> Result<Settings, Refusal> {
    // A start script of MicroK8s makes the one of the other, with paths in place of variables.
    let [made, template] = ["traefik.yaml", "traefik-template.yaml"]
        .map(|name| node.layout.args("traefik").join(name));
    let configuration = match args.traefik_config.unwrap_or_else(|| made.clone()) {
        named if named == made && !made.exists() => template,
        named => named,
    };
    let text = node.layout.read(&configuration).map_err(|error| {
        let hint = "is this a node of MicroK8s? --traefik-config names another file";
        (error.to_string(), Some(hint))
    })?;
    let lacks = |what: &str| {
        let text = format!("`{}` has no {what}", configuration.display());
        let hint = "see `traefik-template.yaml` of MicroK8s for its form";
        (text, Some(hint))
    };
    let listen = traefik::listen_address(&text)
        .and_then(|address| parse_bind(&address))
        .ok_or_else(|| {
            lacks("`entryPoints.apiserver.address` such as `:16443` or `127.0.0.1:16443`")
        })?;
    let provider =
        traefik::provider_file(&text).ok_or_else(|| lacks("`providers.file.filename`"))?;
    let seconds = args.refresh_interval.unwrap_or(REFRESH_INTERVAL);
    let kubeconfig = || node.layout.credential("kubelet.config");
    Ok(Settings {
        listen,
        provider: node.expand(&provider),
        kubeconfig: args.kubeconfig.unwrap_or_else(kubeconfig),
        refresh_interval: (seconds > 0).then_some(Duration::from_secs(seconds)),
    })
}
