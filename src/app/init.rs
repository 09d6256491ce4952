//! `microk8s init`, from what was typed to the exit status.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::app::{self, Ended, operation};
use crate::cli::init::InitArgs;
use crate::cli::join_args::Format;
use crate::cli::output::{self, Printer};
use crate::cli::renderer::Renderer;
use crate::cluster::launch::file::{self, LaunchFile};
use crate::model::launch_configuration::LaunchConfiguration;

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> Ended {
    let args: InitArgs = app::read_arguments("init", arguments, printer)?;
    let pre_init = args.pre_init.unwrap_or_default();
    let (place, read) = match args.config_file.as_path() {
        path if path == Path::new("-") => (
            "standard input".to_owned(),
            file::read(io::stdin().lock()).map(|content| LaunchFile {
                content,
                is_read_by_all: false,
            }),
        ),
        path => (
            format!("`{}`", path.display()),
            File::open(path).and_then(LaunchFile::read),
        ),
    };
    let found = read.map_err(|error| {
        let text = format!("cannot read {place}: {error}");
        output::fail(printer, text, None)
    })?;
    let configuration = LaunchConfiguration::parse(&found.content).map_err(|error| {
        let hint = "nothing was changed; `docs/launch-configurations.md` has the fields";
        output::fail(printer, format!("{place}: {error}"), Some(hint))
    })?;
    if found.is_read_by_all && configuration.holds_token() {
        let warning = format!("warning: {place} holds a token, and every user can read it");
        printer.err(&warning);
    }
    let operation = found.operation(pre_init);
    let mut renderer = Renderer::new(Format::Text, printer);
    let done = app::find_node_or_say(&mut renderer)
        .and_then(|node| operation::launch(&node, &operation, pre_init, &mut renderer));
    Ok(renderer.finish(done))
}
