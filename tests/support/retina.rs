//! An independent RTSP client: retina, which shares no line with GStreamer or ffmpeg. Many sessions at a time, nothing decoded.

use std::time::Duration;

use futures_util::StreamExt;
use retina::client::{
    Credentials, PlayOptions, Session, SessionOptions, SetupOptions, TcpTransportOptions, Transport,
};
use retina::codec::{CodecItem, ParametersRef};

/// What one session saw.
#[derive(Debug)]
pub struct Seen {
    pub frames: usize,
    pub key_frames: usize,
    pub size: (u32, u32),
    pub begins_with_key_frame: bool,
    pub times_rise: bool,
}

/// So many sessions at once, each until it has so many frames; without a user nobody logs in.
pub fn watch(url: &str, login: (&str, &str), sessions: usize, frames: usize) -> Vec<Result<Seen, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let one = || async move {
        let patience = Duration::from_secs(120);
        tokio::time::timeout(patience, session(url, login, frames))
            .await
            .map_err(|_| "too slow".to_owned())?
    };
    runtime.block_on(futures_util::future::join_all((0..sessions).map(|_| one())))
}

async fn session(url: &str, (user, password): (&str, &str), frames: usize) -> Result<Seen, String> {
    let login = Credentials { username: user.to_owned(), password: password.to_owned() };
    let login = (!user.is_empty()).then_some(login);
    let url = url.parse().map_err(|e| format!("{url}: {e}"))?;
    let options = SessionOptions::default().creds(login);
    let mut session = Session::describe(url, options).await.map_err(|e| e.to_string())?;
    let tcp = Transport::Tcp(TcpTransportOptions::default());
    session.setup(0, SetupOptions::default().transport(tcp)).await.map_err(|e| e.to_string())?;
    let playing = session.play(PlayOptions::default()).await.map_err(|e| e.to_string())?;
    let mut items = playing.demuxed().map_err(|e| e.to_string())?;
    let mut seen =
        Seen { frames: 0, key_frames: 0, size: (0, 0), begins_with_key_frame: false, times_rise: true };
    let mut last = None;
    while seen.frames < frames {
        let item = items.next().await.ok_or("the stream ended")?.map_err(|e| e.to_string())?;
        let CodecItem::VideoFrame(frame) = item else { continue };
        if seen.frames == 0 {
            seen.begins_with_key_frame = frame.is_random_access_point();
        }
        seen.times_rise &= last < Some(frame.timestamp().elapsed());
        last = Some(frame.timestamp().elapsed());
        seen.key_frames += usize::from(frame.is_random_access_point());
        seen.frames += 1;
    }
    if let Some(ParametersRef::Video(video)) = items.streams()[0].parameters() {
        seen.size = video.pixel_dimensions();
    }
    Ok(seen)
}
