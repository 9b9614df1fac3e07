// What the API answers. Made from weir.api-1.schema.json: WEIR_BLESS=1 cargo test --test dashboard

/**
 * What binds.
 */
export type Ceiling = 'engine' | 'decode' | 'nvdec' | 'memory' | 'encoder';
/**
 * One picture of several.
 */
export type Part = Part1 & {
  /**
   * Its place in the request, from 0.
   */
  index: number;
  /**
   * Its file's name, or that of its part.
   */
  name: string;
};
export type Part1 =
  | Inferred
  | {
      error: PartProblem;
    };

/**
 * Everything that the API answers; a property for each kind of answer.
 */
export interface WeirApi1 {
  admission: Admitted;
  cameras: Cameras;
  devices: Devices;
  error: Refused;
  events: History;
  flow: Flow;
  healthz: Health;
  infer: Inferred1;
  infer_many: Parts;
  readyz: Readiness;
  reload: Reloaded;
}
/**
 * `POST /api/v1/admission`, when there is room
 */
export interface Admitted {
  /**
   * Frames a second that it takes at `rho_max`.
   */
  capacity_fps: number;
  /**
   * False while no camera delivers: nobody knows then what decoding costs here.
   */
  decode_known: boolean;
  /**
   * For `accept_at`: frames a second of each camera that would be inferred.
   */
  fps?: number | null;
  /**
   * Load over the engine's rate, now.
   */
  rho: number;
  /**
   * All of them, or at a lower rate.
   */
  verdict: 'accept' | 'accept_at';
}
/**
 * `GET /api/v1/cameras`
 */
export interface Cameras {
  /**
   * Those that are in the configuration.
   */
  cameras: Camera[];
  /**
   * `[node] name`.
   */
  node: string;
}
/**
 * `GET /api/v1/cameras/NAME`
 */
export interface Camera {
  /**
   * Connections that were tried.
   */
  attempts: number;
  /**
   * Which of its pictures are decoded.
   */
  decode: 'all' | 'references' | 'key_frames';
  /**
   * Frames a second that come in, over the last five seconds.
   */
  fps_in: number | null;
  frames: Frames;
  /**
   * The GPU that its pictures are on; null where the CPU does it all.
   */
  gpu: number | null;
  /**
   * Frame to event, over the last ten seconds.
   */
  latency_ms: Latency | null;
  /**
   * Inferred frames a second at most.
   */
  max_fps: number | null;
  /**
   * Its name in the configuration.
   */
  name: string;
  /**
   * Its class.
   */
  priority: 'realtime' | 'bulk';
  /**
   * Why it is offline.
   */
  reason: Reason | null;
  /**
   * The oldest that its frames may become before the engine takes them.
   */
  ring_ms: number;
  /**
   * RFC 3339 in UTC: since when it is online or offline.
   */
  since: string | null;
  /**
   * The first attempt is under way, pictures come, it failed and will be tried again, it was taken out.
   */
  state: 'connecting' | 'online' | 'offline' | 'removed';
  /**
   * Objects that are followed now.
   */
  tracks: number;
  /**
   * What it delivers while it is online.
   */
  video: Video | null;
  /**
   * Its share within its class.
   */
  weight: number;
}
/**
 * Its frames since it came, by fate.
 */
export interface Frames {
  /**
   * No sound picture could be made of it.
   */
  decode_error: number;
  /**
   * The engine could not use it.
   */
  failed: number;
  /**
   * Frames that came in.
   */
  in: number;
  /**
   * Wait, are in the engine, or are being analysed.
   */
  in_flight: number;
  /**
   * Analysed.
   */
  inferred: number;
  /**
   * Given up for newer ones of the same camera.
   */
  overrun: number;
  /**
   * Left out on purpose: a rate cap, the motion gate, or thinning.
   */
  skipped: number;
  /**
   * Too old when the engine was free.
   */
  stale: number;
}
/**
 * Percentiles.
 */
export interface Latency {
  /**
   * Half are below.
   */
  p50: number;
  /**
   * 95 % are below.
   */
  p95: number;
}
/**
 * Why a camera went offline.
 */
export interface Reason {
  /**
   * A stable word: `refused`, `auth`, `not_found`, `stalled`, `ended`, `no_video`, `timeout`, …
   */
  code: string;
  /**
   * A sentence for people. Never holds a credential.
   */
  message: string;
}
/**
 * What a camera delivers.
 */
export interface Video {
  /**
   * `h264`, `h265`, `mjpeg`, …
   */
  codec: string;
  /**
   * Pictures a second as announced by the stream; absent when it announces none.
   */
  fps?: number | null;
  /**
   * Rows of the decoded picture.
   */
  height: number;
  /**
   * Columns of the decoded picture.
   */
  width: number;
}
/**
 * `GET /api/v1/devices`
 */
export interface Devices {
  /**
   * The GPUs that are used; none where the CPU does it all.
   */
  gpus: Gpu[];
  video_encoder: Choice;
  /**
   * Encodes H.265; null: nobody asked for it yet.
   */
  video_encoder_h265: Choice1 | null;
}
/**
 * A GPU that is used.
 */
export interface Gpu {
  /**
   * The same of its video decoders, all together.
   */
  decoder_utilization_ratio: number | null;
  /**
   * Video decoders that this process has on it.
   */
  decoders: number;
  /**
   * Its driver's version.
   */
  driver: string | null;
  /**
   * Encoder sessions that are open on it, by anybody.
   */
  encoder_sessions: number | null;
  /**
   * The same of its video encoders.
   */
  encoder_utilization_ratio: number | null;
  /**
   * Why it failed.
   */
  fault?: string | null;
  /**
   * Bytes that it has brought back: boxes or whole outputs, and pictures that somebody looks at.
   */
  from_device_bytes: number;
  /**
   * Which one, as CUDA counts: the metrics' label `gpu`.
   */
  gpu: number;
  /**
   * Bytes of its memory.
   */
  memory_total_bytes: number | null;
  /**
   * Of these: in use, by anybody.
   */
  memory_used_bytes: number | null;
  /**
   * Its name.
   */
  name: string;
  /**
   * Bytes that come over the bus, a second.
   */
  pcie_received_bytes_per_second: number | null;
  /**
   * Bytes that go over the bus, a second.
   */
  pcie_sent_bytes_per_second: number | null;
  /**
   * What it draws.
   */
  power_watts: number | null;
  /**
   * Clock of its processors.
   */
  sm_clock_hertz: number | null;
  /**
   * Whether its engine works.
   */
  state: 'live' | 'failed';
  /**
   * How warm it is.
   */
  temperature_celsius: number | null;
  /**
   * The same in words; empty: nothing holds it back.
   */
  throttle: string[];
  /**
   * Why its clocks are lower than they could be, as NVML's bits.
   */
  throttle_bits: number | null;
  /**
   * Bytes that this process has brought to it since the start: encoded pictures, pictures that were decoded elsewhere, and where in the
   * batch each one goes. Without model and kernels.
   */
  to_device_bytes: number;
  /**
   * Part of the time in which something ran on it.
   */
  utilization_ratio: number | null;
}
/**
 * Encodes H.264 for RTSP out.
 */
export interface Choice {
  /**
   * The one that is used; null: there is none.
   */
  chosen: string | null;
  /**
   * In the order of their trials, which end with the first success.
   */
  trials: Trial[];
}
/**
 * What became of one encoder's trial.
 */
export interface Trial {
  /**
   * GStreamer's name of it.
   */
  encoder: string;
  /**
   * Why it cannot be used; null: it has encoded a picture.
   */
  problem: string | null;
}
/**
 * What was found at start.
 */
export interface Choice1 {
  /**
   * The one that is used; null: there is none.
   */
  chosen: string | null;
  /**
   * In the order of their trials, which end with the first success.
   */
  trials: Trial[];
}
/**
 * Every answer with a status from 400 on
 */
export interface Refused {
  /**
   * Of `/api/v1/reload`: what was done for the others.
   */
  applied?: Reloaded | null;
  error: Problem;
  /**
   * Of `/api/v1/infer`: what became of each picture.
   */
  results?: Part[] | null;
}
/**
 * `POST /api/v1/reload`
 */
export interface Reloaded {
  /**
   * Cameras that were started.
   */
  added: string[];
  /**
   * Frames a second of added cameras that are inferred at a lower rate than they send.
   */
  capped: {
    [k: string]: number;
  };
  /**
   * Cameras that have other settings, and were started again unless those are only `weight` and `max_fps`.
   */
  changed: string[];
  /**
   * Cameras that could not be started, and why.
   */
  failed: {
    [k: string]: string;
  };
  /**
   * Cameras for which there is no room.
   */
  refused: string[];
  /**
   * Cameras that were stopped.
   */
  removed: string[];
  /**
   * Sections that differ and wait for a restart.
   */
  restart: string[];
}
/**
 * What is wrong.
 */
export interface Problem {
  /**
   * Frames a second that it takes at `rho_max`.
   */
  capacity_fps?: number;
  /**
   * For `no_capacity`, and for a picture with `busy`, `late` or `timeout`: what binds.
   */
  ceiling?: Ceiling | null;
  /**
   * A stable word.
   */
  code: string;
  /**
   * False while no camera delivers: nobody knows then what decoding costs here.
   */
  decode_known?: boolean;
  /**
   * A sentence for people, with the remedy.
   */
  message: string;
  /**
   * Load over the engine's rate, now.
   */
  rho?: number;
}
/**
 * What the network sees in it.
 */
export interface Inferred {
  /**
   * Of these: reading the picture.
   */
  decode_ms: number;
  /**
   * Best score first.
   */
  detections: Found[];
  /**
   * From the last byte of the picture to this answer.
   */
  latency_ms: number;
  /**
   * The model's name.
   */
  model: string;
  /**
   * Columns and rows of the picture.
   *
   * @minItems 2
   * @maxItems 2
   */
  size: [number, number];
  /**
   * Of these: waiting for its batch.
   */
  wait_ms: number;
}
/**
 * One object in a picture, ready to be told.
 */
export interface Found {
  /**
   * Left, top, width, height as fractions of the picture.
   *
   * @minItems 4
   * @maxItems 4
   */
  bbox: [number, number, number, number];
  /**
   * The model's name for it.
   */
  label: string;
  /**
   * Confidence, 0..=1.
   */
  score: number;
}
/**
 * What is wrong with it.
 */
export interface PartProblem {
  /**
   * A stable word.
   */
  code: string;
  /**
   * A sentence for people, with the remedy.
   */
  message: string;
  /**
   * When asking again may help, in seconds.
   */
  retry_after_s: number | null;
  /**
   * The HTTP status that it would have had by itself.
   */
  status: number;
}
/**
 * `GET /api/v1/events`
 */
export interface History {
  /**
   * Oldest first.
   */
  events: Event[];
  /**
   * The newest event there is.
   */
  last: number;
  /**
   * Events after `after` that the log no longer keeps.
   */
  lost: number;
  /**
   * Ask again with `after=next` until it is `last`.
   */
  next: number;
}
/**
 * One event as subscribers see it.
 */
export interface Event {
  /**
   * The camera's name.
   */
  camera: string;
  /**
   * The frame that shows it.
   */
  frame?: FrameRef | null;
  /**
   * UUIDv7; the same event delivered twice has the same id.
   */
  id: string;
  /**
   * What happened.
   */
  kind:
    | 'track.started'
    | 'track.updated'
    | 'track.ended'
    | 'zone.entered'
    | 'zone.left'
    | 'zone.dwell'
    | 'line.crossed'
    | 'camera.online'
    | 'camera.offline'
    | 'camera.changed';
  /**
   * For `line.crossed`.
   */
  line?: LineRef | null;
  /**
   * `[node] name`.
   */
  node: string;
  /**
   * For `camera.offline`: why.
   */
  reason?: Reason | null;
  /**
   * Always `weir.event/1`.
   */
  schema: 'weir.event/1';
  /**
   * Counts this node's events since it started, from 1, gapless.
   */
  seq: number;
  /**
   * RFC 3339 in UTC: when the frame reached this box, or for `camera.*` when it was noticed.
   */
  time: string;
  /**
   * The object it is about.
   */
  track?: TrackRef | null;
  /**
   * For `camera.online` and `camera.changed`: what it delivers.
   */
  video?: Video | null;
  /**
   * For `zone.*`.
   */
  zone?: ZoneRef | null;
}
/**
 * The frame that an event is about.
 */
export interface FrameRef {
  /**
   * Milliseconds from the picture's arrival at this box to this event.
   */
  age_ms: number;
  /**
   * The stream's own time in milliseconds, where it has one.
   */
  pts_ms?: number | null;
  /**
   * The camera's frame counter, gapless over all frames that came in.
   */
  seq: number;
}
/**
 * The line of a `line.crossed` event.
 */
export interface LineRef {
  /**
   * Seen along the line from its first point to its second.
   */
  direction: 'to_left' | 'to_right';
  /**
   * Its name in the configuration.
   */
  name: string;
}
/**
 * The object that an event is about.
 */
export interface TrackRef {
  /**
   * Left, top, width, height as fractions of the picture, origin at the top left.
   *
   * @minItems 4
   * @maxItems 4
   */
  bbox: [number, number, number, number];
  /**
   * Unique for this camera while the daemon runs.
   */
  id: number;
  /**
   * The class, by the model's label.
   */
  label: string;
  /**
   * Confidence of the latest detection.
   */
  score: number;
}
/**
 * The zone of a `zone.*` event.
 */
export interface ZoneRef {
  /**
   * How long the track has been inside, in milliseconds.
   */
  dwell_ms: number;
  /**
   * Its name in the configuration.
   */
  name: string;
}
/**
 * `GET /api/v1/flow`
 */
export interface Flow {
  /**
   * What the machine can take; null before the first look.
   */
  admission: Admission | null;
  /**
   * The rate of the engines that live at their largest useful batch, frames a second.
   */
  capacity_fps: number | null;
  /**
   * Each engine: one a GPU.
   */
  lanes: Lane[];
  /**
   * How the engine is fed; of several that with the highest load, and the highest p95 of all. Null until one is warm.
   */
  pace: Pace | null;
  requests: Requests;
  /**
   * S(b) of the same engine: what a batch of b frames takes.
   */
  service: Rung[] | null;
  /**
   * The target of realtime frames' p95.
   */
  slo_p95_ms: number;
}
/**
 * What the machine can take. Of several engines `rho`, `verdict` and `ceiling` are the worst one's, `capacity_fps` and
 * `gpu_memory_available_mb` the sums.
 */
export interface Admission {
  /**
   * Frames a second at `rho_max`.
   */
  capacity_fps: number;
  /**
   * What binds first.
   */
  ceiling: 'engine' | 'decode' | 'nvdec' | 'memory' | 'encoder';
  /**
   * Cores of the machine.
   */
  cores: number;
  /**
   * Cores that decoding takes now.
   */
  decode_cores: number;
  /**
   * What decoding costs.
   */
  decode_ns_per_pixel: number | null;
  /**
   * Of these: those that a run of the engine keeps busy.
   */
  engine_cores: number;
  /**
   * Frames a second that the engine has for each camera.
   */
  fair_fps: {
    [k: string]: number;
  };
  /**
   * The GPU's memory that is left beyond the headroom; null where pictures are in main memory.
   */
  gpu_memory_available_mb: number | null;
  /**
   * Main memory that is left.
   */
  memory_available_mb: number | null;
  /**
   * Part of the GPU's video decoders that is in use, 0..=1; null: none of our streams is decoded there, or it does not say.
   */
  nvdec_load: number | null;
  /**
   * What decoding costs there: time of all decoders together.
   */
  nvdec_ns_per_pixel: number | null;
  /**
   * Load over the engine's rate beside the decoding that there is.
   */
  rho: number;
  /**
   * Up to here new cameras are let in.
   */
  rho_max: number;
  /**
   * How the cameras stand.
   */
  verdict: 'fits' | 'tight' | 'degraded';
}
/**
 * One engine.
 */
export interface Lane {
  /**
   * What it can take; null before the first look.
   */
  admission: LaneAdmission | null;
  /**
   * Cameras that are placed on it.
   */
  cameras: number;
  /**
   * Its rate at its largest useful batch, frames a second.
   */
  capacity_fps: number | null;
  /**
   * Why it failed.
   */
  fault?: string | null;
  /**
   * Its GPU; null where the CPU does it all.
   */
  gpu: number | null;
  /**
   * How it is fed; null until it is warm.
   */
  pace: Pace | null;
  /**
   * S(b): what a batch of b frames takes.
   */
  service: Rung[] | null;
  /**
   * Whether it works.
   */
  state: 'live' | 'failed';
}
/**
 * What one engine can take.
 */
export interface LaneAdmission {
  /**
   * Frames a second at `rho_max`.
   */
  capacity_fps: number;
  /**
   * What binds first.
   */
  ceiling: 'engine' | 'decode' | 'nvdec' | 'memory' | 'encoder';
  /**
   * Its GPU's memory that is left beyond the headroom.
   */
  gpu_memory_available_mb: number | null;
  /**
   * Part of its GPU's video decoders that is in use, 0..=1.
   */
  nvdec_load: number | null;
  /**
   * Load over its rate.
   */
  rho: number;
  /**
   * How its cameras stand.
   */
  verdict: 'fits' | 'tight' | 'degraded';
}
/**
 * The pacer's decision.
 */
export interface Pace {
  /**
   * The largest batch.
   */
  batch_limit_frames: number;
  /**
   * The largest batch of bulk frames while realtime ones come.
   */
  bulk_batch_limit_frames: number;
  /**
   * Frames a batch, lately.
   */
  mean_batch_frames: number;
  /**
   * p95 of realtime frames over the last second, or of the last 20 frames of up to 8 seconds, frame to event.
   */
  p95_ms: number | null;
  /**
   * Why it is what it is.
   */
  reason: 'headroom' | 'saturated' | 'target_bound' | 'target_missed' | 'unreachable';
  /**
   * Offered load over the engine's rate.
   */
  rho: number;
  /**
   * Frames are being lost to the engine.
   */
  saturated: boolean;
  /**
   * Δ: the longest wait for company.
   */
  wait_limit_ms: number;
}
/**
 * One measured point of S(b).
 */
export interface Rung {
  /**
   * Frames a second at this batch.
   */
  fps: number;
  /**
   * Frames of the batch.
   */
  frames: number;
  /**
   * How long it takes.
   */
  ms: number;
}
/**
 * Pictures of clients.
 */
export interface Requests {
  /**
   * By class, `realtime` and `bulk`.
   */
  classes: {
    [k: string]: RequestClass;
  };
  /**
   * How many may be pending.
   */
  limit: number;
}
/**
 * One class of them.
 */
export interface RequestClass {
  /**
   * How many ended how.
   */
  ended: {
    [k: string]: number;
  };
  frames: Frames1;
  /**
   * Not yet answered.
   */
  pending: number;
}
/**
 * Where their pictures went.
 */
export interface Frames1 {
  /**
   * No sound picture could be made of it.
   */
  decode_error: number;
  /**
   * The engine could not use it.
   */
  failed: number;
  /**
   * Frames that came in.
   */
  in: number;
  /**
   * Wait, are in the engine, or are being analysed.
   */
  in_flight: number;
  /**
   * Analysed.
   */
  inferred: number;
  /**
   * Given up for newer ones of the same camera.
   */
  overrun: number;
  /**
   * Left out on purpose: a rate cap, the motion gate, or thinning.
   */
  skipped: number;
  /**
   * Too old when the engine was free.
   */
  stale: number;
}
/**
 * `GET /healthz`: 200 `alive`, or 503 `stuck`
 */
export interface Health {
  /**
   * `alive` or `stuck`.
   */
  status: string;
  /**
   * Stages that make no progress, and for how long.
   */
  stuck: string[];
}
/**
 * `POST /api/v1/infer`: what the network sees in a picture
 */
export interface Inferred1 {
  /**
   * Of these: reading the picture.
   */
  decode_ms: number;
  /**
   * Best score first.
   */
  detections: Found[];
  /**
   * From the last byte of the picture to this answer.
   */
  latency_ms: number;
  /**
   * The model's name.
   */
  model: string;
  /**
   * Columns and rows of the picture.
   *
   * @minItems 2
   * @maxItems 2
   */
  size: [number, number];
  /**
   * Of these: waiting for its batch.
   */
  wait_ms: number;
}
/**
 * `POST /api/v1/infer` with several pictures
 */
export interface Parts {
  /**
   * In the order of the parts.
   */
  results: Part[];
}
/**
 * `GET /readyz`: 200 `ready`, or 503 `not ready`
 */
export interface Readiness {
  /**
   * What is missing.
   */
  missing: string[];
  /**
   * `ready` or `not ready`.
   */
  status: string;
}
