//! Events and states to an MQTT 5 broker.
//!
//! | topic | QoS | retained | what |
//! |---|---|---|---|
//! | `PREFIX/NODE/status` | 1 | yes | `online`, `offline`; the last will says `offline` for a dead daemon |
//! | `PREFIX/NODE/cameras/NAME/status` | 1 | yes | JSON: `state`, `since`, `reason`, `video` |
//! | `PREFIX/NODE/cameras/NAME/events` | 1 | no | `weir.event/1` |
//!
//! **Delivery.** At least once, in order. An event counts as delivered when the broker has answered it and
//! everything before it; after a lost connection everything else is sent again, with the same `id`. A broker that is away
//! costs nothing but the log's room: when the log drops events that were never delivered, that is counted
//! (`weir_outbox_lost_events_total`) and logged.
//!
//! **Refusals.** MQTT 5 says in the PUBACK when a message was *not* taken, for example by an access list. Such an
//! event is counted (`weir_mqtt_publishes_total{result="refused"}`), logged once a reason and connection, and not tried
//! again, for one that the broker will never take must not hold up the rest; it stays readable over HTTP. A refusal
//! that may pass (a quota, an unspecified error) ends the connection instead, and the event is sent again later.

mod link;
mod session;
mod window;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::MqttOptions;
use tokio::time::sleep;

use crate::board::Board;
use crate::clock::Clock;
use crate::config;
use crate::fault::Fault;
use crate::metrics;
use crate::outbox::{Cursor, Outbox, Reader};
use crate::stop::Stop;

/// What the sink works with.
#[derive(Clone)]
pub struct Wiring {
    /// `[node] name`.
    pub node: Arc<str>,
    /// The events.
    pub outbox: Arc<Outbox>,
    /// The cameras, for their retained states.
    pub board: Arc<Board>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How long a stop may take to deliver what is left.
    pub flush: Duration,
}

/// The MQTT sink, before it runs.
pub struct Sink {
    config: config::Mqtt,
    options: MqttOptions,
    wiring: Wiring,
    topics: Topics,
    cursor: Cursor,
    reader: Reader,
    metrics: metrics::Mqtt,
}

struct Topics {
    base: String,
}

impl Topics {
    fn node_status(&self) -> String {
        format!("{}/status", self.base)
    }

    fn status(&self, camera: &str) -> String {
        format!("{}/cameras/{camera}/status", self.base)
    }

    fn events(&self, camera: &str) -> String {
        format!("{}/cameras/{camera}/events", self.base)
    }
}

impl Sink {
    /// Reads the certificates; opens no connection.
    ///
    /// # Errors
    /// `ca_file` cannot be read or holds no certificate.
    pub fn new(config: config::Mqtt, wiring: Wiring) -> Result<Self, Fault> {
        let topics = Topics { base: format!("{}/{}", config.prefix, wiring.node) };
        let options = link::options(&config, topics.node_status())?;
        let cursor = wiring.outbox.cursor("mqtt");
        let reader = wiring.outbox.reader(cursor.acked());
        Ok(Sink { config, options, wiring, topics, cursor, reader, metrics: metrics::Mqtt::new() })
    }

    /// Delivers until the stop signal, then what is left within [`Wiring::flush`]. An absent broker is tried again for ever, ever
    /// more rarely; each kind of trouble is logged once until it is over.
    pub async fn run(mut self, mut stop: Stop) {
        let mut pauses = link::Pauses::default();
        let mut complaint = "";
        self.metrics.connected.set(0.0);
        loop {
            let ended = self.session(&mut stop).await;
            self.metrics.connected.set(0.0);
            let lost = match ended {
                session::Ended::Stopped => break,
                session::Ended::Lost(lost) => lost,
            };
            self.metrics.error(lost.fault.reason);
            if lost.held >= link::Pauses::STABLE {
                pauses.reset();
                complaint = "";
            }
            let pause = pauses.next(lost.fault.retry, fastrand::f64());
            if complaint == lost.fault.reason {
                tracing::debug!(fault = %lost.fault.message, ?pause, "Still no MQTT.");
            } else {
                complaint = lost.fault.reason;
                tracing::warn!(fault = %lost.fault, reason = complaint, ?pause, "No MQTT; events are kept.");
            }
            tokio::select! {
                () = stop.stopped() => break,
                () = sleep(pause) => {}
            }
        }
        let left = self.wiring.outbox.last_seq().saturating_sub(self.cursor.acked());
        if left > 0 {
            tracing::warn!(events = left, "Stopped before MQTT had taken every event.");
        }
    }
}
