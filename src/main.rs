//! Reads the command line, calls one function.

use std::process::ExitCode;

fn main() -> ExitCode {
    pileus::cli::main()
}
