//! Receivers that must get every event: each reads the [`outbox`](crate::outbox) with a cursor of its own.
//!
//! There is one so far. A trait comes with the second one, when it is clear what they share.

pub mod mqtt;
