//! One connection to the broker, from CONNECT to its end.
//!
//! Each gets a client of its own. rumqttc would resend by itself, but in the order of packet identifiers instead of
//! messages, and it forgets everything when the broker has no session for us; so nothing of an old client is kept, and the
//! outbox's cursor alone says what to send.

use std::collections::HashSet;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::Outgoing;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAck, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, Sleep, interval, sleep, timeout};

use super::window::Window;
use super::{Sink, link};
use crate::board::Link;
use crate::clock::Tick;
use crate::fault::{Fault, Retry, Who};
use crate::stop::Stop;

/// A broker that leaves a message unanswered for this long has lost it, or hangs.
const ANSWER: Duration = Duration::from_secs(20);
/// How often camera states are compared with what was last said of them.
const LOOK: Duration = Duration::from_millis(250);
/// Fixed header, identifier, properties and length fields of a PUBLISH: an upper bound.
const PUBLISH_OVERHEAD: usize = 64;

/// Why a session is over.
pub(super) enum Ended {
    /// We were asked to stop.
    Stopped,
    /// It failed; try again later.
    Lost(Lost),
}

/// A failed session.
pub(super) struct Lost {
    pub(super) fault: Fault,
    /// How long the broker had accepted us.
    pub(super) held: Duration,
}

/// What a message under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Event(u64),
    State,
    Farewell,
}

/// How far the stop has got.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Delivering what is left.
    Draining,
    /// "offline" is under way.
    Leaving,
    /// DISCONNECT is under way.
    Gone,
}

impl Sink {
    /// Connects, delivers, and returns when the connection is over.
    pub(super) async fn session(&mut self, stop: &mut Stop) -> Ended {
        let limit = usize::from(self.config.max_inflight.max(1));
        let (client, eventloop) = AsyncClient::new(self.options.clone(), limit + 1);
        let (tx, mut events) = mpsc::channel(64);
        // Never dropped in mid-poll while the session lives: a cancelled `poll` may lose a packet that it
        // has already counted as sent.
        let mut driver = std::pin::pin!(drive(eventloop, tx));
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut session = Session {
            said: vec![None; self.wiring.board.cameras().count()],
            next_state: 0,
            sink: self,
            client,
            window: Window::new(limit),
            since: None,
            max_packet: usize::MAX,
            refusals: HashSet::new(),
            phase: Phase::Live,
        };
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        loop {
            tokio::select! {
                failure = &mut driver => {
                    // Answers that had arrived are still answers.
                    while let Ok(event) = events.try_recv() {
                        let _ = session.handle(event);
                    }
                    return session.ended(failure);
                }
                Some(event) = events.recv() => match session.handle(event) {
                    Ok(()) => session.fill(),
                    Err(fault) => return session.lost(fault),
                },
                () = session.sink.reader.wait(), if session.wants_events() => session.fill(),
                _ = look.tick() => {
                    if let Some(fault) = session.overdue() {
                        return session.lost(fault);
                    }
                    session.look_again();
                    session.fill();
                }
                () = stop.stopped(), if session.phase == Phase::Live => {
                    session.phase = Phase::Draining;
                    deadline = Some(Box::pin(sleep(session.sink.wiring.flush)));
                    session.fill();
                }
                // The last will says "offline" for us.
                () = passed(&mut deadline) => return Ended::Stopped,
            }
        }
    }
}

/// Waits for a deadline; for ever while there is none.
async fn passed(deadline: &mut Option<Pin<Box<Sleep>>>) {
    match deadline {
        Some(deadline) => deadline.await,
        None => std::future::pending().await,
    }
}

/// Polls the client until it fails. rumqttc has no time-out of its own for a write to a peer that stopped reading; but it
/// reports something at least each keep-alive, so that silence is a failure.
async fn drive(mut eventloop: EventLoop, events: mpsc::Sender<Event>) -> Failure {
    let mut patience = link::KEEP_ALIVE * 2;
    loop {
        match timeout(patience, eventloop.poll()).await {
            Err(_) => return Failure::Silent,
            Ok(Err(error)) => {
                // rumqttc reads in batches and keeps the answers before an error to itself. Losing them would only
                // repeat messages, but for nothing.
                for event in eventloop.state.events.drain(..) {
                    if events.send(event).await.is_err() {
                        break;
                    }
                }
                return Failure::Error(Box::new(error));
            }
            Ok(Ok(event)) => {
                if let Event::Incoming(Packet::ConnAck(ack)) = &event
                    && let Some(theirs) = ack.properties.as_ref().and_then(|p| p.server_keep_alive)
                {
                    patience = Duration::from_secs(theirs.into()).max(link::KEEP_ALIVE) * 2;
                }
                if events.send(event).await.is_err() {
                    return Failure::Silent;
                }
            }
        }
    }
}

enum Failure {
    Silent,
    Error(Box<rumqttc::v5::ConnectionError>),
}

struct Session<'a> {
    sink: &'a mut Sink,
    client: AsyncClient,
    window: Window<Item>,
    /// When the broker accepted us.
    since: Option<Tick>,
    max_packet: usize,
    /// Per camera, the state that this connection has told last.
    said: Vec<Option<Link>>,
    /// The camera to look at next; past the last one until the next round.
    next_state: usize,
    /// Reasons that have been logged.
    refusals: HashSet<String>,
    phase: Phase,
}

impl Session<'_> {
    fn handle(&mut self, event: Event) -> Result<(), Fault> {
        match event {
            Event::Incoming(Packet::ConnAck(ack)) => self.accepted(&ack),
            Event::Incoming(Packet::PubAck(ack)) => return self.answered(&ack),
            Event::Outgoing(Outgoing::Publish(pkid)) => self.window.sent(pkid),
            _ => {}
        }
        Ok(())
    }

    fn accepted(&mut self, ack: &ConnAck) {
        let sink = &mut *self.sink;
        let limit = ack.properties.as_ref().and_then(|p| p.receive_max).unwrap_or(u16::MAX);
        self.window = Window::new(usize::from(limit.min(sink.config.max_inflight)));
        self.max_packet = ack
            .properties
            .as_ref()
            .and_then(|p| p.max_packet_size)
            .map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        self.since = Some(sink.wiring.clock.now());
        sink.reader.seek(sink.cursor.acked());
        sink.metrics.connected.set(1.0);
        let backlog = sink.reader.behind();
        tracing::info!(host = sink.config.host, port = sink.config.port, backlog, "MQTT is connected.");
        let topic = sink.topics.node_status();
        self.publish(Item::State, topic, true, Bytes::from_static(b"online"));
    }

    fn answered(&mut self, ack: &PubAck) -> Result<(), Fault> {
        use PubAckReason as R;
        match ack.reason {
            R::Success | R::NoMatchingSubscribers => self.sink.metrics.acked.increment(1),
            R::NotAuthorized | R::TopicNameInvalid | R::PayloadFormatInvalid => {
                self.refused(&format!("{:?}", ack.reason));
            }
            R::UnspecifiedError
            | R::ImplementationSpecificError
            | R::QuotaExceeded
            | R::PacketIdentifierInUse => {
                let sink = &self.sink.config;
                let message = format!(
                    "the MQTT broker at {}:{} does not take our messages: {:?}",
                    sink.host, sink.port, ack.reason
                );
                return Err(Fault::new(Who::Sink, "quota", message).retry(Retry::Soon));
            }
        }
        for item in self.window.answered(ack.pkid) {
            match item {
                Item::Event(seq) => self.sink.cursor.advance(seq),
                Item::State => {}
                Item::Farewell => {
                    // Refused only when the queue is full, and ours is empty; the deadline ends the session anyway.
                    let _ = self.client.try_disconnect();
                    self.phase = Phase::Gone;
                }
            }
        }
        Ok(())
    }

    fn refused(&mut self, reason: &str) {
        self.sink.metrics.refused.increment(1);
        if self.refusals.insert(reason.to_owned()) {
            let prefix = &self.sink.topics.base;
            tracing::warn!(
                reason,
                "The MQTT broker refuses messages, and they are not sent again: let this client write to {prefix}/#."
            );
        }
    }

    fn wants_events(&self) -> bool {
        self.since.is_some() && self.window.free() > 0 && matches!(self.phase, Phase::Live | Phase::Draining)
    }

    /// Gives the client as much as the window takes: states first, for they are few and the newest truth.
    fn fill(&mut self) {
        if !matches!(self.phase, Phase::Live | Phase::Draining) || self.since.is_none() {
            return;
        }
        self.tell_states();
        while self.window.free() > 0 {
            let batch = self.sink.reader.next_batch(self.window.free());
            if let Some(gap) = batch.gap {
                self.sink.metrics.lost.increment(gap.lost);
                tracing::warn!(events = gap.lost, "The event log was full: MQTT has lost events.");
            }
            if batch.events.is_empty() {
                break;
            }
            for event in batch.events {
                let topic = self.sink.topics.events(&event.camera);
                self.publish(Item::Event(event.seq), topic, false, event.json.clone());
            }
        }
        if self.phase == Phase::Draining && self.window.is_empty() && self.sink.reader.behind() == 0 {
            self.phase = Phase::Leaving;
            let topic = self.sink.topics.node_status();
            self.publish(Item::Farewell, topic, true, Bytes::from_static(b"offline"));
        }
    }

    /// Begins another round over the cameras, unless one is still waiting for room.
    fn look_again(&mut self) {
        let cameras = self.sink.wiring.board.cameras().count();
        if self.next_state >= cameras {
            self.next_state = 0;
        }
        // Cameras may have come.
        self.said.resize(cameras, None);
    }

    fn tell_states(&mut self) {
        while self.window.free() > 0 && self.next_state < self.said.len() {
            let place = self.next_state;
            self.next_state += 1;
            let Some(card) = self.sink.wiring.board.cameras().nth(place) else { return };
            let link = card.link();
            if self.said[place].as_ref() != Some(&link) {
                let topic = self.sink.topics.status(&card.name);
                // An empty message takes the retained one away (MQTT 5, 3.3.1.3).
                let payload = match &link {
                    Link::Removed => Bytes::new(),
                    link => serde_json::to_vec(&link.status()).expect("its keys are strings").into(),
                };
                self.publish(Item::State, topic, true, payload);
                self.said[place] = Some(link);
            }
        }
    }

    fn publish(&mut self, item: Item, topic: String, retain: bool, payload: Bytes) {
        if topic.len() + payload.len() + PUBLISH_OVERHEAD > self.max_packet {
            // Sending it would end the connection, and the next one, for ever.
            self.refused("larger than the broker's maximum packet");
            if let Item::Event(seq) = item {
                // What is under way before it will be answered later; the cursor must not pass it.
                if self.window.is_empty() {
                    self.sink.cursor.advance(seq);
                }
            }
            return;
        }
        let properties = PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some(
                if payload.starts_with(b"{") { "application/json" } else { "text/plain" }.into(),
            ),
            ..PublishProperties::default()
        };
        let given =
            self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, retain, payload, properties);
        // The client's queue holds more than the window, and our names make valid topics.
        debug_assert!(given.is_ok(), "{given:?}");
        self.window.push(item, self.sink.wiring.clock.now());
    }

    /// A broker that pings but never answers is as good as dead.
    fn overdue(&self) -> Option<Fault> {
        let oldest = self.window.oldest()?;
        (self.sink.wiring.clock.now().since(oldest) > ANSWER).then(|| {
            let (host, port) = (&self.sink.config.host, self.sink.config.port);
            let message =
                format!("the MQTT broker at {host}:{port} has not answered a message for {ANSWER:?}");
            Fault::new(Who::Sink, "no_answer", message).retry(Retry::Soon)
        })
    }

    fn ended(&self, failure: Failure) -> Ended {
        if self.phase != Phase::Live {
            return Ended::Stopped;
        }
        self.lost(match failure {
            Failure::Error(error) => link::diagnose(&self.sink.config, &error),
            Failure::Silent => {
                let (host, port) = (&self.sink.config.host, self.sink.config.port);
                let message = format!("the MQTT broker at {host}:{port} stopped reading");
                Fault::new(Who::Sink, "timeout", message).retry(Retry::Soon)
            }
        })
    }

    fn lost(&self, fault: Fault) -> Ended {
        let now = self.sink.wiring.clock.now();
        Ended::Lost(Lost { fault, held: self.since.map_or(Duration::ZERO, |since| now.since(since)) })
    }
}
