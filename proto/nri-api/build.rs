//! Generates the messages of both files; needs no protoc.

const FILES: [&str; 2] = ["nri.proto", "ttrpc.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    // Maps in order: what is sent does not depend on chance.
    prost_build::Config::new()
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
