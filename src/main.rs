//! Installs the crypto provider, parses the command line and runs it.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    // kube and reqwest both use rustls; naming the provider first keeps them from having to choose.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("another crypto provider is already installed");
        return ExitCode::FAILURE;
    }
    chekt_operator::cli::main().await
}
