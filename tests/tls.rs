//! TLS on the one port, for gRPC and WebSocket, with files that change.

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use support::pki::Pki;
use support::*;
use tonic::transport::Endpoint;

fn start(dir: &Path, client_ca: bool) -> (Pki, Runtime) {
    let pki = Pki::new();
    let (cert, key, ca) = pki.write(dir);
    let mut command = serve(dir);
    command
        .arg("--tls-cert")
        .arg(cert)
        .arg("--tls-key")
        .arg(key);
    if client_ca {
        command.arg("--tls-client-ca").arg(ca);
    }
    let runtime = Runtime::spawn(&mut command);
    (pki, runtime)
}

#[tokio::test]
async fn both_transports_and_the_command_line_speak_tls() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, runtime) = start(dir.path(), false);
    let channel = pki.channel(&runtime, None).await.unwrap();
    Peer::on(channel, hello(ALICE)).await.welcomed().await;
    // WebSocket: HTTP/1.1 on the same port.
    let mut roots = rustls::RootCertStore::empty();
    let ca = <rustls_pki_types::CertificateDer as rustls_pki_types::pem::PemObject>::from_pem_slice(
        pki.ca_pem.as_bytes(),
    );
    roots.add(ca.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let port = runtime.address.rsplit(':').next().unwrap();
    let connector = tokio_tungstenite::Connector::Rustls(Arc::new(config));
    let url = format!("wss://localhost:{port}/arcp");
    let tcp = tokio::net::TcpStream::connect(&runtime.address)
        .await
        .unwrap();
    let connected =
        tokio_tungstenite::client_async_tls_with_config(url, tcp, None, Some(connector)).await;
    let (socket, _) = connected.unwrap();
    let mut ws = ws::Ws::on(socket);
    ws.send(&ws::hello("h", ALICE, serde_json::json!({})).to_string())
        .await;
    assert_eq!(ws.hear().await["type"], "session.welcome");
    let listed = Command::new(env!("CARGO_BIN_EXE_arcpd"))
        .args([
            "agents",
            "--server",
            &format!("https://localhost:{port}"),
            "--ca",
        ])
        .arg(dir.path().join("ca.pem"))
        .env("ARCPD_TOKEN", ALICE)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{listed:?}");
    // Plain text is not answered.
    let plain = Endpoint::from_shared(format!("http://{}", runtime.address)).unwrap();
    let plain = plain.connect().await.unwrap();
    let mut client = arcpd::wire::proto::runtime_service_client::RuntimeServiceClient::new(plain);
    assert!(client.session(tokio_stream::empty()).await.is_err());
}

#[tokio::test]
async fn with_a_client_ca_a_client_without_a_certificate_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (pki, runtime) = start(dir.path(), true);
    let with = pki.channel(&runtime, Some(&pki)).await.unwrap();
    Peer::on(with, hello(ALICE)).await.welcomed().await;
    for identity in [None, Some(&Pki::new())] {
        // TLS 1.3 tells the client only when it first uses the connection.
        if let Ok(channel) = pki.channel(&runtime, identity).await {
            let mut client =
                arcpd::wire::proto::runtime_service_client::RuntimeServiceClient::new(channel);
            assert!(client.session(tokio_stream::empty()).await.is_err());
        }
    }
}

#[tokio::test]
async fn new_certificates_are_used_and_broken_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (old, runtime) = start(dir.path(), false);
    let kept = Peer::on(old.channel(&runtime, None).await.unwrap(), hello(ALICE)).await;
    let mut kept = kept.welcomed().await;
    std::fs::write(
        dir.path().join("cert.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
    )
    .unwrap();
    while !runtime.log().contains("the ones before stay") {
        tokio::task::yield_now().await;
    }
    old.channel(&runtime, None)
        .await
        .expect("the old pair still serves");
    let new = Pki::new();
    new.write(dir.path());
    while !runtime.log().contains("new TLS files are in use") {
        tokio::task::yield_now().await;
    }
    let channel = new
        .channel(&runtime, None)
        .await
        .expect("the new pair serves");
    Peer::on(channel, hello(ALICE)).await.welcomed().await;
    assert!(old.channel(&runtime, None).await.is_err());
    // A connection that was there goes on.
    kept.ping().await;
}
