//! Generates messages, server traits and clients of `api.proto`; needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=api.proto");
    let descriptors = protox::compile(["api.proto"], ["."])?;
    // Credentials have a Debug of their own, in lib.rs, that hides them.
    tonic_prost_build::configure()
        .skip_debug(["runtime.v1.AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
