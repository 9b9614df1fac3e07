//! Two independent subscribers: HTTP server-sent events by our own client, MQTT by mosquitto's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// One event, as far as the demo looks at it.
#[derive(Debug, Deserialize)]
pub struct Event {
    id: String,
    camera: String,
    kind: String,
    time: String,
    track: Option<Track>,
    zone: Option<Named>,
    line: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Track {
    id: u64,
    label: String,
    score: f64,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

impl Event {
    fn is_person(&self) -> bool {
        self.kind.starts_with("track.") && self.track.as_ref().is_some_and(|track| track.label == "person")
    }

    /// As one line: `12:04:05  arcade  track.started  person 3 (0.82)`.
    fn line(&self) -> String {
        let clock = self.time.get(11..19).unwrap_or("");
        let mut line = format!("{clock}  {:10}  {:14}", self.camera, self.kind);
        if let Some(Track { id, label, score }) = &self.track {
            line.push_str(&format!("  {label} {id} ({score:.2})"));
        }
        if let Some(place) = self.zone.as_ref().or(self.line.as_ref()) {
            line.push_str(&format!("  {}", place.name));
        }
        line.trim_end().to_owned()
    }
}

/// What one channel has brought.
#[derive(Debug, Default)]
pub struct Channel {
    /// Each event counts once, however often it was delivered.
    ids: BTreeSet<String>,
    /// Person track events by camera.
    pub persons: BTreeMap<String, u64>,
    pub first: Option<Instant>,
    pub first_person: Option<Instant>,
}

impl Channel {
    pub fn events(&self) -> usize {
        self.ids.len()
    }

    fn note(&mut self, event: &Event, now: Instant) -> bool {
        if !self.ids.insert(event.id.clone()) {
            return false;
        }
        self.first.get_or_insert(now);
        if event.is_person() {
            self.first_person.get_or_insert(now);
            *self.persons.entry(event.camera.clone()).or_default() += 1;
        }
        true
    }
}

/// What both channels have brought, and the newest events.
#[derive(Debug, Default)]
pub struct Seen {
    pub sse: Channel,
    pub mqtt: Channel,
    pub recent: VecDeque<String>,
    /// Payloads that were not events: a bug of ours, shown at the end.
    pub unread: u64,
}

const RECENT: usize = 10;

/// Shared by the two readers and the screen.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One `data:` line of the event stream.
    fn sse(&self, data: &str, now: Instant) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        match serde_json::from_str::<Event>(data) {
            Ok(event) if seen.sse.note(&event, now) => {
                seen.recent.push_back(event.line());
                while seen.recent.len() > RECENT {
                    seen.recent.pop_front();
                }
            }
            Ok(_) => {}
            Err(_) => seen.unread += 1,
        }
    }

    /// One line of `mosquitto_sub -v`: topic, space, payload.
    fn mqtt(&self, line: &str, now: Instant) {
        let Some((topic, payload)) = line.split_once(' ') else { return };
        if !topic.ends_with("/events") {
            return;
        }
        let mut seen = self.seen();
        match serde_json::from_str::<Event>(payload) {
            Ok(event) => {
                seen.mqtt.note(&event, now);
            }
            Err(_) => seen.unread += 1,
        }
    }

    /// Reads the stream at `url` until it ends, from its first event on. Call it again when it has not begun yet.
    pub fn follow_sse(&self, url: &str) -> anyhow::Result<()> {
        let config = ureq::Agent::config_builder().timeout_connect(Some(Duration::from_secs(2))).build();
        let mut answer = ureq::Agent::new_with_config(config).get(url).header("last-event-id", "0").call()?;
        let mut kind = String::new();
        for line in BufReader::new(answer.body_mut().as_reader()).lines() {
            let line = line?;
            match line.split_once(':').map(|(field, value)| (field, value.trim_start())) {
                Some(("event", value)) => kind = value.to_owned(),
                Some(("data", value)) if kind != "weir.gap" => self.sse(value, Instant::now()),
                _ if line.is_empty() => kind.clear(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads what `mosquitto_sub -v` prints until it ends.
    pub fn follow_mqtt(&self, out: impl Read) {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            self.mqtt(&line, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::tests::serve;

    fn event(id: u64, camera: &str, kind: &str, label: &str) -> String {
        format!(
            r#"{{"schema":"weir.event/1","id":"{id}","seq":{id},"node":"n","camera":"{camera}","kind":"{kind}","time":"2026-11-24T05:06:07.123Z","track":{{"id":3,"label":"{label}","score":0.824,"bbox":[0,0,1,1]}}}}"#
        )
    }

    #[test]
    fn persons_are_counted_by_channel_and_camera_and_twice_delivered_ones_once() {
        let (watch, now) = (Watch::default(), Instant::now());
        watch.sse(&event(1, "a", "track.started", "person"), now);
        watch.sse(&event(2, "b", "track.started", "car"), now);
        let line = format!("weir/n/cameras/a/events {}", event(1, "a", "track.started", "person"));
        watch.mqtt(&line, now);
        watch.mqtt(&line, now);
        watch.mqtt("weir/n/status online", now);
        let seen = watch.seen();
        assert_eq!((seen.sse.events(), seen.mqtt.events(), seen.unread), (2, 1, 0));
        assert_eq!(seen.sse.persons, BTreeMap::from([("a".into(), 1)]));
        assert_eq!(seen.mqtt.persons, BTreeMap::from([("a".into(), 1)]));
        assert_eq!(seen.recent[0], "05:06:07  a           track.started   person 3 (0.82)");
    }

    #[test]
    fn a_payload_that_is_no_event_is_counted_and_no_person() {
        let (watch, now) = (Watch::default(), Instant::now());
        watch.mqtt("weir/n/cameras/a/events hello", now);
        let seen = watch.seen();
        assert_eq!((seen.unread, seen.mqtt.events()), (1, 0));
    }

    #[test]
    fn the_stream_is_read_as_server_sent_events() {
        let body = format!(
            ": hello\n\nid: 1\nevent: track.started\ndata: {}\n\nevent: weir.gap\ndata: {{\"lost\":null}}\n\nid: 2\nevent: x\ndata:{}\n\n",
            event(1, "a", "track.started", "person"),
            event(2, "a", "track.ended", "person")
        );
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        let watch = Watch::default();
        watch.follow_sse(&serve(format!("{head}{body}").into())).unwrap();
        let seen = watch.seen();
        assert_eq!((seen.sse.events(), seen.unread, seen.sse.persons["a"]), (2, 0, 2));
    }
}
