//! `microk8s init`, from what was typed to the exit status.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::app::{self, operation};
use crate::base::exit_status::ExitStatus;
use crate::cli;
use crate::cli::init::InitArgs;
use crate::cli::join_args::Format;
use crate::cli::output::{self, Printer};
use crate::cli::renderer::Renderer;
use crate::cluster::launch::file::{self, LaunchFile};
use crate::model::launch_configuration::LaunchConfiguration;

pub(crate) fn run(arguments: Vec<OsString>, printer: &mut dyn Printer) -> ExitStatus {
    let args: InitArgs = match cli::read("init", arguments) {
        Ok(args) => args,
        Err(error) => return app::refuse_arguments(&error, printer),
    };
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
    let found = match read {
        Ok(found) => found,
        Err(error) => {
            output::error(printer, &format!("cannot read {place}: {error}"), None);
            return ExitStatus::Failure;
        }
    };
    let configuration = match LaunchConfiguration::parse(&found.content) {
        Ok(configuration) => configuration,
        Err(error) => {
            let hint = "nothing was changed; `docs/launch-configurations.md` has the fields";
            output::error(printer, &format!("{place}: {error}"), Some(hint));
            return ExitStatus::Failure;
        }
    };
    if found.is_read_by_all && configuration.holds_token() {
        let warning = format!("warning: {place} holds a token, and every user can read it");
        printer.err(&warning);
    }
    let operation = found.operation(pre_init);
    let mut renderer = Renderer::new(Format::Text, printer);
    let done = app::find_node_or_say(&mut renderer)
        .and_then(|node| operation::launch(&node, &operation, pre_init, &mut renderer));
    renderer.finish(done)
}
