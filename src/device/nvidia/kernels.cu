// What the GPU does to pictures and to the network's outputs. Compiled at start by NVRTC.

// One picture and its place in the tensor. Laid out as `Slot` in kernels.rs.
struct Slot {
    const unsigned char* y;
    const unsigned char* u;
    const unsigned char* v;
    int pitch_y;        // bytes from row to row
    int pitch_c;
    int step_c;         // bytes from chroma sample to chroma sample: 1 planar, 2 interleaved
    int width, height;  // of the picture
    int left, top, columns, rows;  // of its place
    float shift;        // where chroma lies: 0.25 left, 0 centre
    float k[3][4];      // per channel: weights of y, u, v, and a constant
    float low[3], high[3];
};

// Tensors hold 32-bit floats, or 16-bit ones as their bits (the header with their type is not there at run time).
typedef unsigned short half;

static __device__ float get(float from) { return from; }

static __device__ float get(half from) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(from));
    return value;
}

static __device__ void put(float* to, float value) { *to = value; }

static __device__ void put(half* to, float value) {
    half bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    *to = bits;
}

// A coordinate, whole part and fraction apart, so that f32 loses nothing in large pictures.
struct Place {
    int whole;
    float part;
};

// The centre of tensor pixel i of n, in samples of a picture that is `size` long.
static __device__ Place centre(int i, int n, int size) {
    int above = (2 * i + 1) * size, below = 2 * n;
    int whole = above / below;
    return Place{whole, (float)(above - whole * below) / (float)below};
}

// The same in samples of chroma.
static __device__ Place halve(Place p, float shift) {
    return Place{p.whole >> 1, ((p.whole & 1) + p.part) * 0.5f + shift};
}

static __device__ float weight(int j, Place at, float inverse) {
    return fmaxf(0.0f, 1.0f - fabsf((float)(j - at.whole) + 0.5f - at.part) * inverse);
}

// The samples nearer than the triangle's radius.
static __device__ int2 near(Place at, float radius, int n) {
    int from = at.whole + (int)floorf(at.part - radius), to = at.whole + (int)ceilf(at.part + radius);
    return make_int2(max(from, 0), min(to, n));
}

// Weighted mean of one plane, or of two at once when `other` is not null. MOST is how many columns there can be, whose weights are
// then kept in registers; 0: any number.
template <int MOST>
static __device__ float2 sum(const unsigned char* plane, const unsigned char* other, int pitch, int step, int2 columns,
                             int2 lines, Place x, Place y, float rx, float ry) {
    float ix = 1.0f / rx, iy = 1.0f / ry, across = 0.0f, down = 0.0f;
    float kept[MOST > 0 ? MOST : 1];
    int count = columns.y - columns.x;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        kept[i] = i < count ? weight(columns.x + i, x, ix) : 0.0f;
        across += kept[i];
    }
    if (MOST == 0)
        for (int i = 0; i < count; i++) across += weight(columns.x + i, x, ix);
    float2 sum = make_float2(0.0f, 0.0f);
    for (int j = lines.x; j < lines.y; j++) {
        float wy = weight(j, y, iy);
        if (wy == 0.0f) continue;
        down += wy;
        size_t from = (size_t)j * pitch + (size_t)columns.x * step;
        const unsigned char *row = plane + from, *second = other + from;
        float2 line = make_float2(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < MOST; i++) {
            if (i >= count) break;
            line.x += kept[i] * (float)row[i * step];
            if (other) line.y += kept[i] * (float)second[i * step];
        }
        if (MOST == 0)
            for (int i = 0; i < count; i++) {
                float wx = weight(columns.x + i, x, ix);
                line.x += wx * (float)row[i * step];
                if (other) line.y += wx * (float)second[i * step];
            }
        sum.x += wy * line.x;
        sum.y += wy * line.y;
    }
    float all = 1.0f / (across * down);
    return make_float2(sum.x * all, sum.y * all);
}

static __device__ float2 mean(const unsigned char* plane, const unsigned char* other, int pitch, int step, int width,
                              int height, Place x, Place y, float rx, float ry) {
    int2 columns = near(x, rx, width), lines = near(y, ry, height);
    int count = columns.y - columns.x;
    if (count <= 4) return sum<4>(plane, other, pitch, step, columns, lines, x, y, rx, ry);
    if (count <= 8) return sum<8>(plane, other, pitch, step, columns, lines, x, y, rx, ry);
    return sum<0>(plane, other, pitch, step, columns, lines, x, y, rx, ry);
}

// Pictures to the slots of the batch's tensor, one thread a tensor pixel: a triangle filter whose radius grows with the
// shrink factor, on each plane in its own geometry; then colour, mean and std. What the CPU's twin computes in f64.
template <typename T>
static __device__ void letterbox_to(const Slot* slots, T* tensor, int width, int height, int interleaved, float pad0,
                                    float pad1, float pad2) {
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Slot& s = slots[blockIdx.z];
    float out[3] = {pad0, pad1, pad2};
    int i = x - s.left, j = y - s.top;
    if (i >= 0 && i < s.columns && j >= 0 && j < s.rows) {
        float sx = (float)s.width / (float)s.columns, sy = (float)s.height / (float)s.rows;
        Place px = centre(i, s.columns, s.width), py = centre(j, s.rows, s.height);
        float luma = mean(s.y, 0, s.pitch_y, 1, s.width, s.height, px, py, fmaxf(sx, 1.0f), fmaxf(sy, 1.0f)).x;
        float2 c = mean(s.u, s.v, s.pitch_c, s.step_c, (s.width + 1) / 2, (s.height + 1) / 2, halve(px, s.shift),
                        halve(py, 0.0f), fmaxf(sx * 0.5f, 1.0f), fmaxf(sy * 0.5f, 1.0f));
        for (int n = 0; n < 3; n++) {
            float value = luma * s.k[n][0] + c.x * s.k[n][1] + c.y * s.k[n][2] + s.k[n][3];
            out[n] = fminf(fmaxf(value, s.low[n]), s.high[n]);
        }
    }
    size_t area = (size_t)width * height, at = (size_t)y * width + x;
    T* slot = tensor + 3 * area * blockIdx.z;
    for (int n = 0; n < 3; n++) put(&slot[interleaved ? at * 3 + n : area * n + at], out[n]);
}

extern "C" __global__ void letterbox(const Slot* slots, float* tensor, int width, int height, int interleaved,
                                     float pad0, float pad1, float pad2) {
    letterbox_to(slots, tensor, width, height, interleaved, pad0, pad1, pad2);
}

extern "C" __global__ void letterbox_half(const Slot* slots, half* tensor, int width, int height, int interleaved,
                                          float pad0, float pad1, float pad2) {
    letterbox_to(slots, tensor, width, height, interleaved, pad0, pad1, pad2);
}

// Mean luma of the cells of a grid (a block each), from one sample in 4 × 4, as `grid` in still.rs has it: the same integers.
extern "C" __global__ void luma_grid(const unsigned char* luma, int pitch, int width, int height, unsigned char* cells) {
    int columns = gridDim.x, rows = gridDim.y;
    int left = blockIdx.x * width / columns, right = (blockIdx.x + 1) * width / columns;
    int top = blockIdx.y * height / rows, bottom = (blockIdx.y + 1) * height / rows;
    int across = (right - left + 3) / 4, down = (bottom - top + 3) / 4;
    unsigned int sum = 0;
    for (int i = threadIdx.x; i < across * down; i += 32)
        sum += luma[(size_t)(top + i / across * 4) * pitch + left + i % across * 4];
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    if (threadIdx.x == 0) cells[blockIdx.y * columns + blockIdx.x] = sum / (across * down);
}

// Anchors that can become boxes, as `pick` in picked.rs says: [slot][anchor][value] or [slot][value][anchor], told by the steps. Each that is
// picked goes to `found` (room for `count` rows of 7 a slot) in an order of chance, and `counts` is how many there are.
template <typename T>
static __device__ void pick_from(const T* output, const unsigned char* named, int classes, int first, int count,
                                 int to_anchor, int to_value, float floor, int* counts, float* found) {
    int a = blockIdx.x * blockDim.x + threadIdx.x;
    if (a >= count) return;
    const T* at = output + (size_t)blockIdx.y * count * (first + classes) + (size_t)a * to_anchor;
    float objectness = first == 5 ? get(at[4 * (size_t)to_value]) : 1.0f;
    if (objectness < floor) return;
    const float infinity = __int_as_float(0x7f800000);
    float most = -infinity;
    int best = 0;
    bool sound = true;
    for (int c = 0; c < classes; c++) {
        if (!named[c]) continue;
        float value = get(at[(size_t)(first + c) * to_value]);
        sound &= fabsf(value) < infinity;
        if (value > most) {
            most = value;
            best = c;
        }
    }
    float score = sound ? objectness * most : __int_as_float(0x7fc00000);
    if (score < floor) return;
    int n = atomicAdd(&counts[blockIdx.y], 1);
    float* row = found + ((size_t)blockIdx.y * count + n) * 7;
    row[0] = (float)a;
    for (int k = 0; k < 4; k++) row[k + 1] = get(at[(size_t)k * to_value]);
    row[5] = (float)best;
    row[6] = score;
}

extern "C" __global__ void pick(const float* output, const unsigned char* named, int classes, int first, int count,
                                int to_anchor, int to_value, float floor, int* counts, float* found) {
    pick_from(output, named, classes, first, count, to_anchor, to_value, floor, counts, found);
}

extern "C" __global__ void pick_half(const half* output, const unsigned char* named, int classes, int first, int count,
                                     int to_anchor, int to_value, float floor, int* counts, float* found) {
    pick_from(output, named, classes, first, count, to_anchor, to_value, floor, counts, found);
}
