//! The `microk8s` binary; everything is decided in [`microk8s::app`].

fn main() -> std::process::ExitCode {
    microk8s::app::main()
}
