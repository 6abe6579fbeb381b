//! Compiles `tercet.proto` with protox, so that nobody needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=tercet.proto");
    let descriptors = protox::compile(["tercet.proto"], ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Rare and large: every request and reply would have their size.
        .boxed(".tercet.v1.Request.op.sync")
        .boxed(".tercet.v1.Reply.result.synced")
        .compile_fds(descriptors)?;
    Ok(())
}
