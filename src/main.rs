//! The `syncd` binary: hands its arguments to the command line room and exits with what that says.

fn main() -> std::process::ExitCode {
    syncd::cli::main()
}
