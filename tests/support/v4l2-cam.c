/* USB cameras where the kernel has none: the V4L2 capture interface of a UVC device, for the process that this is preloaded into.
 *
 *     cc -shared -fPIC -pthread -o v4l2-cam.so v4l2-cam.c
 *     V4L2_CAM=/tmp/cams LD_PRELOAD=./v4l2-cam.so gst-launch-1.0 v4l2src device=/dev/test-cam/porch ! …
 *
 * The folder $V4L2_CAM/NAME is the device /dev/test-cam/NAME, and can be changed at any time:
 *
 *     modes                       what it offers, a line each: FOURCC WIDTH HEIGHT FPS
 *     FOURCC-WIDTHxHEIGHT/0, 1 …  its frames in that mode, a file each, played over and over; a file with the ending
 *                                 .bad is one that lost packets on the way, which the driver marks
 *     plugged                     while it is missing, so is the device
 *     fault                       CALL ERRNO: this call fails, for example `open 13` or `STREAMON 16`
 *
 * What the kernel does is done the same way: a frame that no buffer waits for is lost, poll() says POLLERR | POLLHUP
 * when the device is gone, and calls that uvcvideo does not know are ENOTTY.
 * (Linux, Documentation/userspace-api/media/v4l; drivers/media/usb/uvc/uvc_v4l2.c.)
 *
 * Calls on anything else go to the kernel by syscall(), which needs no look-up of the function that is hidden.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PREFIX "/dev/test-cam/"
#define EXPORT __attribute__((visibility("default")))
enum { MOST_OPEN = 32, MOST_COPIES = 4, MOST_MODES = 16, MOST_BUFFERS = 32, ALIGN = 4096 };

struct mode {
    uint32_t fourcc, width, height, fps;
};

struct buffer {
    struct v4l2_buffer v4l2;
    unsigned long turn; /* when it was queued, or filled */
};

/* One open file. */
struct camera {
    int fds[MOST_COPIES]; /* the program's, with what dup() made of it; 0: none */
    int open;             /* how many of them */
    int used;             /* until its thread has ended, this place is not free */
    int wire;             /* the other end: a byte in it is a frame that is ready, its end is the unplugging */
    int memory;
    uint8_t *mapped;
    char name[64];
    struct mode modes[MOST_MODES];
    int mode_count;
    struct mode mode;
    struct buffer buffers[MOST_BUFFERS];
    uint32_t buffer_count, sequence, frame;
    unsigned long turn;
    int streaming, gone;
    pthread_t thread;
};

static struct camera cameras[MOST_OPEN];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int fail(int error) {
    errno = error;
    return -1;
}

/* Reads up to `size` bytes of a file in a camera's folder; -1 when there is none. */
static ssize_t read_file(const char *name, const char *file, void *into, size_t size) {
    char path[512];
    const char *root = getenv("V4L2_CAM");
    snprintf(path, sizeof path, "%s/%s/%s", root ? root : "", name, file);
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return -1;
    size_t got = 0;
    for (ssize_t n; got < size && (n = read(fd, (char *)into + got, size - got)) > 0;) got += n;
    syscall(SYS_close, fd);
    return got;
}

static int plugged(const char *name) {
    char none;
    return read_file(name, "plugged", &none, 1) >= 0;
}

/* The error that `call` of this camera shall end in; 0: none. */
static int fault(const char *name, const char *call) {
    char text[64] = "", which[32];
    int error;
    if (read_file(name, "fault", text, sizeof text - 1) <= 0) return 0;
    return sscanf(text, "%31s %d", which, &error) == 2 && !strcmp(which, call) ? error : 0;
}

/* The camera's name when the path is one of ours. */
static const char *ours(const char *path) {
    return getenv("V4L2_CAM") && path && !strncmp(path, PREFIX, strlen(PREFIX)) ? path + strlen(PREFIX) : NULL;
}

/* Where this camera keeps `fd`; 0 finds a free place. */
static int *place(struct camera *c, int fd) {
    for (int i = 0; i < MOST_COPIES; i++)
        if (c->fds[i] == fd) return &c->fds[i];
    return NULL;
}

static struct camera *find(int fd) {
    for (int i = 0; fd > 0 && i < MOST_OPEN; i++)
        if (cameras[i].open && place(&cameras[i], fd)) return &cameras[i];
    return NULL;
}

/* Places of buffers: room for the largest mode in YUYV, so that a change of mode moves nothing. */
static size_t room(const struct camera *c) {
    size_t most = 0;
    for (int i = 0; i < c->mode_count; i++) {
        size_t size = (size_t)c->modes[i].width * c->modes[i].height * 2;
        if (size > most) most = size;
    }
    return (most + ALIGN - 1) / ALIGN * ALIGN;
}

static struct buffer *oldest(struct camera *c, uint32_t flag) {
    struct buffer *found = NULL;
    for (uint32_t i = 0; i < c->buffer_count; i++) {
        struct buffer *b = &c->buffers[i];
        if (b->v4l2.flags & flag && (!found || b->turn < found->turn)) found = b;
    }
    return found;
}

static void deliver(struct camera *c) {
    struct buffer *b = oldest(c, V4L2_BUF_FLAG_QUEUED);
    uint32_t sequence = c->sequence++;
    if (!b) return;
    ssize_t size = -1;
    int bad = 0;
    /* This frame, sound or not, or else the first one again. */
    for (int attempt = 0; size < 0 && attempt < 3; attempt++) {
        bad = attempt == 1;
        if (attempt == 2) c->frame = 0;
        char file[64];
        const struct mode *m = &c->mode;
        snprintf(file, sizeof file, "%.4s-%ux%u/%u%s", (char *)&m->fourcc, m->width, m->height, c->frame, bad ? ".bad" : "");
        size = read_file(c->name, file, c->mapped + b->v4l2.m.offset, b->v4l2.length);
    }
    if (size < 0) return;
    c->frame++;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    b->v4l2.bytesused = size;
    b->v4l2.sequence = sequence;
    b->v4l2.timestamp = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    b->v4l2.flags = (b->v4l2.flags & ~(V4L2_BUF_FLAG_QUEUED | V4L2_BUF_FLAG_ERROR)) | V4L2_BUF_FLAG_DONE;
    if (bad) b->v4l2.flags |= V4L2_BUF_FLAG_ERROR;
    b->turn = c->turn++;
    send(c->wire, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void hang_up(struct camera *c) {
    if (c->wire >= 0) syscall(SYS_close, c->wire);
    c->wire = -1;
    c->gone = 1;
}

/* The sensor's clock. Ends when the file is closed. */
static void *run(void *camera) {
    struct camera *c = camera;
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    pthread_mutex_lock(&lock);
    while (c->open) {
        if (!c->gone && !plugged(c->name)) hang_up(c);
        if (!c->gone && c->streaming) deliver(c);
        next.tv_nsec += 1000000000 / c->mode.fps;
        if (next.tv_nsec >= 1000000000) next.tv_nsec -= 1000000000, next.tv_sec++;
        pthread_mutex_unlock(&lock);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void read_modes(struct camera *c) {
    char text[1024] = "", *line = text;
    read_file(c->name, "modes", text, sizeof text - 1);
    for (int used; c->mode_count < MOST_MODES; line += used) {
        struct mode *m = &c->modes[c->mode_count];
        if (sscanf(line, " %4c %u %u %u%n", (char *)&m->fourcc, &m->width, &m->height, &m->fps, &used) < 4) break;
        c->mode_count++;
    }
    c->mode = c->modes[0];
}

static int open_camera(const char *name, int flags) {
    if (!plugged(name)) return fail(ENOENT);
    int error = fault(name, "open");
    if (error) return fail(error);
    pthread_mutex_lock(&lock);
    int ends[2] = {-1, -1};
    struct camera *c = cameras;
    while (c < cameras + MOST_OPEN && c->used) c++;
    if (c == cameras + MOST_OPEN || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends)) {
        pthread_mutex_unlock(&lock);
        return fail(EMFILE);
    }
    memset(c, 0, sizeof *c);
    c->fds[0] = ends[0], c->open = c->used = 1, c->wire = ends[1], c->memory = -1;
    snprintf(c->name, sizeof c->name, "%s", name);
    /* Never read there: for an end that closes with bytes unread, poll() says POLLERR at ours. */
    send(ends[0], "", 1, MSG_NOSIGNAL);
    if (flags & O_NONBLOCK) fcntl(ends[0], F_SETFL, O_NONBLOCK);
    read_modes(c);
    pthread_create(&c->thread, NULL, run, c);
    pthread_mutex_unlock(&lock);
    return ends[0];
}

static int close_camera(struct camera *c, int fd) {
    *place(c, fd) = 0;
    syscall(SYS_close, fd);
    if (--c->open) return 0;
    pthread_t thread = c->thread;
    hang_up(c);
    if (c->mapped) munmap(c->mapped, room(c) * MOST_BUFFERS);
    if (c->memory >= 0) syscall(SYS_close, c->memory);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&lock);
    c->used = 0;
    return 0;
}

static void describe(const struct mode *m, struct v4l2_pix_format *pix) {
    int jpeg = m->fourcc == V4L2_PIX_FMT_MJPEG;
    memset(pix, 0, sizeof *pix);
    pix->width = m->width, pix->height = m->height, pix->pixelformat = m->fourcc;
    pix->field = V4L2_FIELD_NONE;
    pix->bytesperline = jpeg ? 0 : m->width * 2;
    pix->sizeimage = m->width * m->height * 2;
    pix->colorspace = V4L2_COLORSPACE_SRGB;
    pix->priv = V4L2_PIX_FMT_PRIV_MAGIC;
}

/* The mode that is asked for, or as uvcvideo does the nearest one: of the same format if there is one. */
static struct mode nearest(const struct camera *c, const struct v4l2_pix_format *want) {
    const struct mode *best = NULL;
    long least = 0;
    for (const struct mode *m = c->modes; m < c->modes + c->mode_count; m++) {
        long off = labs((long)m->width - want->width) + labs((long)m->height - want->height);
        if (m->fourcc != want->pixelformat) off += 1000000;
        if (!best || off < least) best = m, least = off;
    }
    return *best;
}

static int enumerate(const struct camera *c, unsigned long request, void *arg) {
    struct v4l2_fmtdesc *format = arg;
    struct v4l2_frmsizeenum *size = arg;
    struct v4l2_frmivalenum *interval = arg;
    uint32_t n = 0;
    for (int i = 0; i < c->mode_count; i++) {
        const struct mode *m = &c->modes[i];
        /* Whether an earlier line has said it already. */
        int format_seen = 0, size_seen = 0;
        for (int j = 0; j < i; j++) {
            int same = c->modes[j].fourcc == m->fourcc;
            format_seen |= same;
            size_seen |= same && c->modes[j].width == m->width && c->modes[j].height == m->height;
        }
        if (request == VIDIOC_ENUM_FMT) {
            if (format_seen || n++ != format->index) continue;
            int jpeg = m->fourcc == V4L2_PIX_FMT_MJPEG;
            format->flags = jpeg ? V4L2_FMT_FLAG_COMPRESSED : 0;
            strcpy((char *)format->description, jpeg ? "Motion-JPEG" : "YUYV 4:2:2");
            format->pixelformat = m->fourcc;
            return 0;
        }
        if (request == VIDIOC_ENUM_FRAMESIZES) {
            if (m->fourcc != size->pixel_format || size_seen || n++ != size->index) continue;
            size->type = V4L2_FRMSIZE_TYPE_DISCRETE;
            size->discrete = (struct v4l2_frmsize_discrete){m->width, m->height};
            return 0;
        }
        if (m->fourcc != interval->pixel_format || m->width != interval->width || m->height != interval->height) continue;
        if (n++ != interval->index) continue;
        interval->type = V4L2_FRMIVAL_TYPE_DISCRETE;
        interval->discrete = (struct v4l2_fract){1, m->fps};
        return 0;
    }
    return fail(EINVAL);
}

static int format(struct camera *c, unsigned long request, struct v4l2_format *f) {
    if (f->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct mode m = request == VIDIOC_G_FMT ? c->mode : nearest(c, &f->fmt.pix);
    if (request == VIDIOC_S_FMT) {
        if (c->buffer_count) return fail(EBUSY);
        c->mode = m;
    }
    describe(&m, &f->fmt.pix);
    return 0;
}

static int rate(struct camera *c, unsigned long request, struct v4l2_streamparm *p) {
    if (p->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    struct v4l2_fract want = p->parm.capture.timeperframe;
    if (request == VIDIOC_S_PARM && want.numerator && want.denominator)
        for (int i = 0; i < c->mode_count; i++) {
            const struct mode *m = &c->modes[i];
            int same = m->fourcc == c->mode.fourcc && m->width == c->mode.width && m->height == c->mode.height;
            if (same && m->fps == want.denominator / want.numerator) c->mode = *m;
        }
    memset(&p->parm, 0, sizeof p->parm);
    p->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    p->parm.capture.timeperframe = (struct v4l2_fract){1, c->mode.fps};
    return 0;
}

static int request_buffers(struct camera *c, struct v4l2_requestbuffers *r) {
    if (r->type != V4L2_BUF_TYPE_VIDEO_CAPTURE || r->memory != V4L2_MEMORY_MMAP) return fail(EINVAL);
    if (c->streaming) return fail(EBUSY);
    if (r->count > MOST_BUFFERS) r->count = MOST_BUFFERS;
    if (r->count && c->memory < 0) {
        c->memory = memfd_create("v4l2-cam", MFD_CLOEXEC);
        size_t all = room(c) * MOST_BUFFERS;
        if (c->memory < 0 || ftruncate(c->memory, all)) return fail(ENOMEM);
        void *at = (void *)syscall(SYS_mmap, NULL, all, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory, 0L);
        if (at == MAP_FAILED) return fail(ENOMEM);
        c->mapped = at;
    }
    c->buffer_count = r->count;
    for (uint32_t i = 0; i < r->count; i++) {
        struct v4l2_buffer b = {.index = i, .type = r->type, .memory = V4L2_MEMORY_MMAP, .field = V4L2_FIELD_NONE};
        b.flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC | V4L2_BUF_FLAG_TSTAMP_SRC_SOE;
        b.length = c->mode.width * c->mode.height * 2;
        b.m.offset = i * room(c);
        c->buffers[i] = (struct buffer){b, 0};
    }
    r->capabilities = V4L2_BUF_CAP_SUPPORTS_MMAP;
    return 0;
}

static int stream(struct camera *c, int fd, int on) {
    c->streaming = on;
    if (on) return 0;
    char byte;
    for (uint32_t i = 0; i < c->buffer_count; i++) {
        if (c->buffers[i].v4l2.flags & V4L2_BUF_FLAG_DONE) recv(fd, &byte, 1, MSG_DONTWAIT);
        c->buffers[i].v4l2.flags &= ~(V4L2_BUF_FLAG_QUEUED | V4L2_BUF_FLAG_DONE);
    }
    return 0;
}

static int pass_buffer(struct camera *c, int fd, unsigned long request, struct v4l2_buffer *b) {
    if (b->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
    if (request != VIDIOC_DQBUF && b->index >= c->buffer_count) return fail(EINVAL);
    struct buffer *mine = &c->buffers[request == VIDIOC_DQBUF ? 0 : b->index];
    if (request == VIDIOC_QBUF) {
        if (mine->v4l2.flags & (V4L2_BUF_FLAG_QUEUED | V4L2_BUF_FLAG_DONE)) return fail(EINVAL);
        mine->v4l2.flags |= V4L2_BUF_FLAG_QUEUED;
        mine->turn = c->turn++;
    } else if (request == VIDIOC_DQBUF) {
        /* The program's file is blocking or not as it was opened; whoever waits here must not hold the lock. */
        int error = 0;
        char byte;
        pthread_mutex_unlock(&lock);
        if (recv(fd, &byte, 1, 0) != 1) error = errno == EAGAIN ? EAGAIN : ENODEV;
        pthread_mutex_lock(&lock);
        if (error) return fail(error);
        mine = oldest(c, V4L2_BUF_FLAG_DONE);
        if (!mine) return fail(EAGAIN);
        mine->v4l2.flags &= ~V4L2_BUF_FLAG_DONE;
    }
    *b = mine->v4l2;
    return 0;
}

static int capability(const struct camera *c, struct v4l2_capability *cap) {
    memset(cap, 0, sizeof *cap);
    strcpy((char *)cap->driver, "uvcvideo");
    snprintf((char *)cap->card, sizeof cap->card, "%.31s", c->name);
    strcpy((char *)cap->bus_info, "usb-0000:00:14.0-1");
    cap->version = 6 << 16 | 1 << 8;
    cap->device_caps = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING | V4L2_CAP_EXT_PIX_FORMAT;
    cap->capabilities = cap->device_caps | V4L2_CAP_DEVICE_CAPS;
    return 0;
}

static int input(struct v4l2_input *in) {
    if (in->index) return fail(EINVAL);
    memset(in, 0, sizeof *in);
    strcpy((char *)in->name, "Camera 1");
    in->type = V4L2_INPUT_TYPE_CAMERA;
    return 0;
}

/* Calls that a `fault` can name. */
static const struct {
    unsigned long request;
    const char *name;
} NAMES[] = {
    {VIDIOC_QUERYCAP, "QUERYCAP"}, {VIDIOC_S_FMT, "S_FMT"}, {VIDIOC_S_PARM, "S_PARM"}, {VIDIOC_REQBUFS, "REQBUFS"},
    {VIDIOC_QBUF, "QBUF"},         {VIDIOC_DQBUF, "DQBUF"}, {VIDIOC_STREAMON, "STREAMON"},
};

static int answer(struct camera *c, int fd, unsigned long request, void *arg) {
    if (c->gone) return fail(ENODEV);
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        int error = NAMES[i].request == request ? fault(c->name, NAMES[i].name) : 0;
        if (error) return fail(error);
    }
    switch (request) {
    case VIDIOC_QUERYCAP: return capability(c, arg);
    case VIDIOC_ENUMINPUT: return input(arg);
    case VIDIOC_G_INPUT: return *(int *)arg = 0;
    case VIDIOC_S_INPUT: return *(int *)arg ? fail(EINVAL) : 0;
    case VIDIOC_ENUM_FMT:
        if (((struct v4l2_fmtdesc *)arg)->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return fail(EINVAL);
        return enumerate(c, request, arg);
    case VIDIOC_ENUM_FRAMESIZES:
    case VIDIOC_ENUM_FRAMEINTERVALS: return enumerate(c, request, arg);
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: return format(c, request, arg);
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: return rate(c, request, arg);
    case VIDIOC_REQBUFS: return request_buffers(c, arg);
    case VIDIOC_QUERYBUF:
    case VIDIOC_QBUF:
    case VIDIOC_DQBUF: return pass_buffer(c, fd, request, arg);
    case VIDIOC_STREAMON: return stream(c, fd, 1);
    case VIDIOC_STREAMOFF: return stream(c, fd, 0);
    case VIDIOC_G_CTRL:
    case VIDIOC_S_CTRL:
    case VIDIOC_QUERYCTRL:
    case VIDIOC_QUERY_EXT_CTRL:
    case VIDIOC_G_EXT_CTRLS:
    case VIDIOC_SUBSCRIBE_EVENT: return fail(EINVAL);
    default: return fail(ENOTTY);
    }
}

/* ---- what the program calls ---- */

static int any_open(int dir, const char *path, int flags, mode_t mode) {
    const char *name = ours(path);
    return name ? open_camera(name, flags) : (int)syscall(SYS_openat, dir, path, flags, mode);
}

#define WITH_MODE(from)                      \
    va_list rest;                            \
    va_start(rest, from);                    \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest)

EXPORT int open(const char *path, int flags, ...) {
    WITH_MODE(flags);
    return any_open(AT_FDCWD, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
    WITH_MODE(flags);
    return any_open(AT_FDCWD, path, flags, mode);
}
EXPORT int openat(int dir, const char *path, int flags, ...) {
    WITH_MODE(flags);
    return any_open(dir, path, flags, mode);
}
EXPORT int openat64(int dir, const char *path, int flags, ...) {
    WITH_MODE(flags);
    return any_open(dir, path, flags, mode);
}
/* What open() becomes under _FORTIFY_SOURCE. */
EXPORT int __open_2(const char *path, int flags) { return any_open(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return any_open(AT_FDCWD, path, flags, 0); }

EXPORT int close(int fd) {
    pthread_mutex_lock(&lock);
    struct camera *c = find(fd);
    int result = c ? close_camera(c, fd) : (int)syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

EXPORT int dup(int fd) {
    pthread_mutex_lock(&lock);
    struct camera *c = find(fd);
    int *to = c ? place(c, 0) : NULL;
    int copy = c && !to ? fail(EMFILE) : (int)syscall(SYS_dup, fd);
    if (to && copy > 0) *to = copy, c->open++;
    pthread_mutex_unlock(&lock);
    return copy;
}

EXPORT int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *arg = va_arg(rest, void *);
    va_end(rest);
    pthread_mutex_lock(&lock);
    struct camera *c = find(fd);
    /* Only the low 32 bits are the request: some callers extend the sign. */
    int result = c ? answer(c, fd, request & 0xffffffff, arg) : 0;
    pthread_mutex_unlock(&lock);
    return c ? result : (int)syscall(SYS_ioctl, fd, request, arg);
}

EXPORT void *mmap64(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    pthread_mutex_lock(&lock);
    struct camera *c = find(fd);
    if (c) fd = c->memory;
    pthread_mutex_unlock(&lock);
    return (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
}
EXPORT void *mmap(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap64(at, length, protection, flags, fd, offset);
}

/* The kernel's struct stat is glibc's on 64-bit machines. */
static int any_stat(const char *path, void *into) {
    const char *name = ours(path);
    if (!name) return (int)syscall(SYS_newfstatat, AT_FDCWD, path, into, 0);
    if (!plugged(name)) return fail(ENOENT);
    struct stat *s = into;
    memset(s, 0, sizeof *s);
    s->st_mode = S_IFCHR | 0660;
    s->st_nlink = 1;
    s->st_rdev = makedev(81, 0);
    return 0;
}
EXPORT int stat(const char *path, struct stat *into) { return any_stat(path, into); }
EXPORT int stat64(const char *path, struct stat64 *into) { return any_stat(path, into); }
