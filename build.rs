//! Compiles the protocol with a compiler that is itself a crate, so that a build needs no `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/syncd.proto");
    let descriptors = protox::compile(["proto/syncd.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
