//! The program `wrun`; all of it is in the library beside this file.

/// Every command allocates little and ends soon.
#[global_allocator]
static ARENA: sys::arena::Arena = sys::arena::Arena::new();

fn main() -> std::process::ExitCode {
    runtime::main()
}
