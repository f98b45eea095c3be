//! Generates messages, server trait and client of `otlp.proto`; needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=otlp.proto");
    let descriptors = protox::compile(["otlp.proto"], ["."])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
