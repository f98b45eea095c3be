//! `wherryd`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cri_server::main()
}
