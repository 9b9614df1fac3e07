//! How to reach a broker, what a failure means to the operator, and how long to wait after it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::tokio_rustls::rustls::crypto::aws_lc_rs;
use rumqttc::tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use rumqttc::tokio_rustls::rustls::{ClientConfig, RootCertStore};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode, LastWill};
use rumqttc::v5::{ConnectionError, MqttOptions, StateError};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use secrecy::ExposeSecret;

use crate::config;
use crate::fault::{Fault, Retry, Who};

/// A broker that we ping this often knows that we live, and we that it does.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// TCP, TLS and CONNACK together.
const CONNECT_SECONDS: u64 = 5;

/// The client's options, with `status_topic` as last will.
///
/// The session starts clean and ends with the connection: for what we publish, the [`outbox`](crate::outbox) is the
/// session, and a second memory on the broker could only disagree with it. It also makes the last will go out at once.
///
/// # Errors
/// The certificates cannot be read.
pub(super) fn options(config: &config::Mqtt, status_topic: String) -> Result<MqttOptions, Fault> {
    let mut options = MqttOptions::new(&config.client_id, &config.host, config.port);
    options.set_keep_alive(KEEP_ALIVE);
    options.set_connection_timeout(CONNECT_SECONDS);
    options.set_clean_start(true);
    options.set_outgoing_inflight_upper_limit(config.max_inflight.max(1));
    options.set_last_will(LastWill::new(status_topic, "offline", QoS::AtLeastOnce, true, None));
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some(login) = &config.login {
        options.set_credentials(&login.user, login.password.expose_secret());
    }
    if let Some(tls) = &config.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(client_config(
            tls,
        )?))));
    }
    Ok(options)
}

fn client_config(tls: &config::MqttTls) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => {
            let bad = |why: String| {
                Fault::new(
                    Who::Config,
                    "ca_file",
                    format!("[mqtt] ca_file = {:?}: {why}", path.display().to_string()),
                )
                .remedy("give a PEM file with the certificate of the CA that signed the broker's")
            };
            for cert in CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))? {
                roots.add(cert.map_err(|e| bad(e.to_string()))?).map_err(|e| bad(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad("there is no certificate in it".into()));
            }
        }
        None => {
            // One unreadable certificate of a hundred must not cost the other ninety-nine.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Fault::new(
                    Who::Config,
                    "ca_file",
                    "[mqtt] url is mqtts://, but this system trusts no CA",
                )
                .remedy("install the package ca-certificates, or set [mqtt] ca_file"));
            }
        }
    }
    // The provider is named: with two of them compiled in, rustls's default would panic.
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Fault::new(Who::Bug, "tls", format!("TLS cannot be set up: {e}")))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// What a lost or failed connection means.
pub(super) fn diagnose(config: &config::Mqtt, error: &ConnectionError) -> Fault {
    let broker = format!("the MQTT broker at {}:{}", config.host, config.port);
    let soon =
        |reason, what: &str| Fault::new(Who::Sink, reason, format!("{broker} {what}")).retry(Retry::Soon);
    let slowly =
        |reason, what: &str| Fault::new(Who::Sink, reason, format!("{broker} {what}")).retry(Retry::Slowly);
    match error {
        ConnectionError::Timeout(_) => soon("timeout", &format!("did not accept us within {CONNECT_SECONDS} s")),
        ConnectionError::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            soon("refused", "refuses the connection").remedy("start the broker, or correct [mqtt] url")
        }
        ConnectionError::Io(e) => soon("io", &format!("cannot be reached: {e}")),
        ConnectionError::Tls(e) => slowly("tls", &format!("failed the TLS handshake: {e}")).remedy(
            "the broker's certificate must be valid now, be signed by a CA in [mqtt] ca_file (or the system's), and name \
             the host in [mqtt] url",
        ),
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized | ConnectReturnCode::Banned,
        ) => {
            let user = config.login.as_ref().map_or_else(|| "no user".to_owned(), |l| format!("user {:?}", l.user));
            slowly("auth", &format!("does not let us in ({user})")).remedy("correct [mqtt] user and its password")
        }
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::RefusedProtocolVersion | ConnectReturnCode::UnsupportedProtocolVersion,
        ) => slowly("protocol", "does not speak MQTT 5").remedy("use a broker with MQTT 5, such as mosquitto from 1.6 on"),
        ConnectionError::ConnectionRefused(code) => slowly("denied", &format!("denies the connection: {code:?}")),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            ..
        }) => slowly("taken_over", &format!("has given our place to another client {:?}", config.client_id))
            .remedy("give each node its own [node] name or [mqtt] client_id"),
        ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) => {
            soon("disconnected", &format!("sent us away: {reason_code:?}"))
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => soon("timeout", "stopped answering pings"),
        ConnectionError::MqttState(StateError::ConnectionAborted | StateError::Io(_)) => {
            soon("closed", "closed the connection")
        }
        other => soon("protocol", &format!("broke off: {other}")),
    }
}

/// Waits between attempts: they double from `first` to `most`, each shortened by up to half at random, so that
/// nodes that lost one broker do not come back together. A session that lasted starts over.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    failures: u32,
}

impl Pauses {
    /// A connection that held for this long was a good one.
    pub(super) const STABLE: Duration = Duration::from_secs(10);

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The next wait, for `luck` in 0..1.
    pub(super) fn next(&mut self, retry: Retry, luck: f64) -> Duration {
        let (first, most) = match retry {
            Retry::Soon => (0.5, 10.0),
            // A login that is refused over and over may be locked.
            Retry::Slowly | Retry::Never => (5.0, 120.0),
        };
        let ceiling = f64::min(most, first * f64::from(1u32 << self.failures.min(16)));
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs_f64(ceiling * (1.0 - luck.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> config::Mqtt {
        config::Mqtt {
            host: "broker.example".into(),
            port: 8883,
            tls: None,
            client_id: "weir-n".into(),
            login: Some(config::Login { user: "weir".into(), password: "hunter2".to_owned().into() }),
            prefix: "weir".into(),
            max_inflight: 10,
        }
    }

    proptest! {
        /// No wait is shorter than half the first or longer than the last, whatever came before.
        #[test]
        fn pauses_are_neither_tight_nor_endless(faults in proptest::collection::vec((any::<bool>(), 0.0f64..1.0), 1..80)) {
            let mut pauses = Pauses::default();
            for (slow, luck) in faults {
                let (retry, least, most) = if slow { (Retry::Slowly, 2.5, 120.0) } else { (Retry::Soon, 0.25, 10.0) };
                let wait = pauses.next(retry, luck).as_secs_f64();
                prop_assert!((least..=most).contains(&wait), "{}", wait);
            }
        }
    }

    #[test]
    fn a_refused_login_is_named_without_its_password_and_not_hammered() {
        let fault =
            diagnose(&config(), &ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized));
        assert_eq!((fault.reason, fault.retry), ("auth", Retry::Slowly));
        let text = fault.to_string();
        assert!(
            text.contains("broker.example:8883") && text.contains("\"weir\"") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn a_ca_file_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        for content in [None, Some("not a certificate")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let fault = client_config(&config::MqttTls { ca_file: Some(path.clone()) }).unwrap_err();
            assert_eq!((fault.who, fault.reason), (Who::Config, "ca_file"));
            assert!(fault.message.contains("ca.pem"), "{fault}");
        }
    }
}
