//! Generates messages, server traits and clients of the three files; needs no protoc.

/// One file a service, since each is a package of its own.
const FILES: [&str; 3] = ["containers.proto", "tasks.proto", "version.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
