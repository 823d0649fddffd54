//! The TLS files: whether they belong together, whom they name, and until when they hold.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use crate::daemon::check::Findings;
use crate::daemon::config::{self, Config};
use crate::rpc;

/// A certificate is to be renewed before this is left of it.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);
/// Past every date that a certificate can bear, the year 9999.
const NEVER: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(253_402_300_800));

/// Looks at the files; what connections can be made with, if that is possible at all.
pub(super) fn check(findings: &mut Findings, config: &Config) -> Result<Option<rpc::Tls>, ()> {
    let Some(files) = &config.tls else { return Ok(None) };
    let read = |path: &Path| std::fs::read(path).map_err(|_| ());
    // Whether they can be read was said with the configuration.
    let tls = rpc::Tls { ca: read(&files.ca)?, cert: read(&files.cert)?, key: read(&files.key)? };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = authorities(findings, files, &tls);
    let chain = own_chain(findings, files, &tls, &provider);
    if let (Ok(roots), Ok(chain)) = (roots, chain) {
        let subject = files.cert.display().to_string();
        verify(findings, &subject, &files.ca.display().to_string(), &roots, &chain, &provider);
        names(findings, &subject, config, &chain);
    }
    Ok(Some(tls))
}

fn authorities(findings: &mut Findings, files: &config::Tls, tls: &rpc::Tls) -> Result<RootCertStore, ()> {
    let subject = files.ca.display().to_string();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.ca) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        if let Err(error) = added {
            findings.error(
                ("tls-ca", &subject),
                format!("it holds something that is no certificate of an authority: {error}"),
                "give the authority's certificate in PEM form",
            );
            return Err(());
        }
    }
    findings.ok(("tls-ca", &subject), format!("authorities in it: {}", roots.len()));
    Ok(roots)
}

fn own_chain(
    findings: &mut Findings,
    files: &config::Tls,
    tls: &rpc::Tls,
    provider: &CryptoProvider,
) -> Result<Vec<CertificateDer<'static>>, ()> {
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&tls.cert).collect();
    let chain = match chain {
        Ok(chain) if !chain.is_empty() => chain,
        Ok(_) => {
            findings.error(("tls-cert", &cert), "it holds no certificate", "give the node's in PEM form");
            return Err(());
        }
        Err(error) => {
            findings.error(
                ("tls-cert", &cert),
                format!("it is not in PEM form: {error}"),
                "give the node's certificate in PEM form, then those between it and the authority",
            );
            return Err(());
        }
    };
    let private = match PrivateKeyDer::from_pem_slice(&tls.key) {
        Ok(private) => private,
        Err(error) => {
            findings.error(
                ("tls-key", &key),
                format!("it is no private key in PEM form: {error}"),
                "give the key that belongs to tls.cert",
            );
            return Err(());
        }
    };
    match CertifiedKey::from_der(chain.clone(), private, provider) {
        Ok(_) => findings.ok(("tls-key", &key), "it belongs to the certificate"),
        Err(Error::InconsistentKeys(_)) => {
            findings.error(
                ("tls-key", &key),
                format!("it does not belong to the certificate in {cert}"),
                "give the key and the certificate that were made together",
            );
            return Err(());
        }
        Err(error) => {
            findings.error(
                ("tls-key", &key),
                format!("it can't be used with the certificate in {cert}: {error}"),
                "give an ECDSA (P-256 or P-384), Ed25519 or RSA key with its certificate",
            );
            return Err(());
        }
    }
    Ok(chain)
}

/// Whether peers that trust the authorities will believe the chain, as a server's and as a client's.
fn verify(
    findings: &mut Findings,
    subject: &str,
    ca: &str,
    roots: &RootCertStore,
    chain: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) {
    let now = UnixTime::now();
    let as_client = |at: UnixTime| {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_client_cert(&chain[0], &chain[1..], at).map(drop)
    };
    let as_server = |at: UnixTime| {
        let algorithms = provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(&chain[0])?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, &chain[1..], at, algorithms)
    };
    for (use_, outcome) in [("a server", as_server(now)), ("a client", as_client(now))] {
        let Err(error) = outcome else { continue };
        let (message, remedy) = refusal(&error, ca);
        findings.error(("tls-cert", subject), format!("peers refuse it as {use_}'s: {message}"), remedy);
        return;
    }
    let Some(end) = end_of(as_server) else {
        findings.ok(("tls-cert", subject), format!("it is signed by an authority in {ca}"));
        return;
    };
    let left = end.as_secs().saturating_sub(now.as_secs());
    let date = date_of(end);
    if left < SOON.as_secs() {
        findings.warning(
            ("tls-cert", subject),
            format!("it is signed by an authority in {ca}, and ends on {date}, in {} days", left / 86_400),
            "renew it on this node",
        );
    } else {
        findings.ok(
            ("tls-cert", subject),
            format!("it is signed by an authority in {ca}, and holds until {date}"),
        );
    }
}

/// When the chain ceases to be believed. A verifier at the end of time names the date it fails by, and the earliest
/// such date is the one at which none is named any more.
fn end_of(verify: impl Fn(UnixTime) -> Result<(), Error>) -> Option<UnixTime> {
    /// A chain has no more certificates than this.
    const LINKS_MAX: usize = 8;
    let mut end = None;
    let mut at = NEVER;
    for _ in 0..LINKS_MAX {
        match verify(at) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                (end, at) = (Some(not_after), not_after);
            }
            _ => break,
        }
    }
    end
}

fn date_of(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "a date beyond reckoning".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

fn refusal(error: &Error, ca: &str) -> (String, String) {
    let Error::InvalidCertificate(why) = error else {
        return (error.to_string(), "make a new certificate".to_owned());
    };
    match why {
        CertificateError::ExpiredContext { not_after, .. } => {
            (format!("it ended on {}", date_of(*not_after)), "renew it on this node".to_owned())
        }
        CertificateError::NotValidYetContext { .. } => {
            ("it is not valid yet".to_owned(), "set this host's clock, or make a new certificate".to_owned())
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            format!("no authority in {ca} signed it"),
            "use certificates of one authority on all nodes, with those between in tls.cert".to_owned(),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "its extended key usage does not allow it".to_owned(),
            "make it for serverAuth and clientAuth both: a node is both".to_owned(),
        ),
        _ => (error.to_string(), "make a new certificate".to_owned()),
    }
}

/// Whether the certificate names the host under which peers reach this node.
fn names(findings: &mut Findings, subject: &str, config: &Config, chain: &[CertificateDer<'static>]) {
    let address = config.address();
    let Some(host) = config::host_of(&address) else { return };
    let named = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string()).and_then(|name| {
        let parsed = ParsedCertificate::try_from(&chain[0]).map_err(|error| error.to_string())?;
        verify_server_name(&parsed, &name).map_err(|error| error.to_string())
    });
    match named {
        Ok(()) => findings.ok(("tls-name", subject), format!("it names {host}, where peers reach this node")),
        Err(_) => findings.error(
            ("tls-name", subject),
            format!("it does not name {host}, where peers reach this node, so they will not talk to it"),
            format!("make it with {host} among its subject alternative names"),
        ),
    }
}
