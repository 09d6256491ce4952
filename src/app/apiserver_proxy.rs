//! `microk8s apiserver-proxy`, from what was typed to the exit status.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use crate::agent::apiserver_proxy::{self, ProxyError, Settings};
use crate::app::agent::Refusal;
use crate::app::{self, Ended, log};
use crate::base::exit_status::ExitStatus;
use crate::cli;
use crate::cli::apiserver_proxy::ApiserverProxyArgs;
use crate::cli::go_flags::{self, Unknown};
use crate::cli::output::Printer;
use crate::cluster::node::{Node, parse_bind};
use crate::store::traefik;

const NAME: &str = "apiserver-proxy";
/// MicroK8s's default of `--refresh-interval`, in seconds.
const REFRESH_INTERVAL: u64 = 30;

/// Runs the proxy. MicroK8s's own wrapper starts it with the arguments of its own proxy.
pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let command = cli::subcommand(NAME);
    let read = |words| go_flags::read(&command, words, Unknown::LeftOut);
    let node = app::find_node_or_say(printer)?;
    let typed = read(arguments.clone());
    app::read_arguments::<ApiserverProxyArgs>(NAME, typed.words, printer)?;
    // What is typed comes last, and counts.
    let path = node.layout.args(NAME);
    let file = node.arguments(NAME);
    let words = file.map_or_else(|_| Vec::new(), |file| node.command_line(&file));
    let mut words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
    words.extend(arguments);
    let words = read(words);
    let args: ApiserverProxyArgs = cli::read(NAME, words.words)
        .map_err(|error| Refusal::of_file(&path, &error).print(printer))?;
    log::start(args.log_format);
    for line in words.left_out {
        tracing::warn!("{line}");
    }
    let served = settings(&node, args).and_then(|settings| {
        apiserver_proxy::run(&settings)
            .map_err(|error| Refusal::new(&error).with_hint(hint(&error)))
    });
    served
        .map(|()| ExitStatus::Success)
        .map_err(|refusal| refusal.print(printer))
}

fn hint(error: &ProxyError) -> Option<&'static str> {
    match error {
        ProxyError::NoList { .. } => Some(
            "a node has this file when it has joined as a worker, and needs no proxy otherwise: join, or write the addresses of API servers into it",
        ),
        ProxyError::Listen(error) if error.source.kind() == io::ErrorKind::AddrInUse => Some(
            "another proxy runs here, or this is a control plane node, which needs none; `ss -tlnp` names the program",
        ),
        ProxyError::Listen(_) => {
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
        Refusal::new(error).with_hint(hint)
    })?;
    let lacks = |what: &str| {
        let text = format!("`{}` has no {what}", configuration.display());
        Refusal::new(text).with_hint("see `traefik-template.yaml` of MicroK8s for its form")
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
