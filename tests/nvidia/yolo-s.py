"""A network of YOLOv8-s' shape with random weights, for figures of speed, which weights do not change: 28.6 GFLOP at 640x640,
11.2 M parameters, output [batch, 84, 8400]; FP16 inside, f32 at both ends (all16: at no end). Needs numpy and onnx.

    python3 tests/nvidia/yolo-s.py FILE [f16|f32|all16 [BIAS]]

BIAS moves the class scores: about ten boxes of a picture are over 0.1.
"""
import sys

import numpy as np
import onnx
from onnx import helper as h, TensorProto as T, numpy_helper as nh
rng = np.random.default_rng(1)
nodes, inits = [], []
n = [0]
mode = sys.argv[2] if len(sys.argv) > 2 else 'f16'
half, all16 = mode != 'f32', mode == 'all16'
ft = np.float16 if half else np.float32
flops = [0]
def name(p='t'):
    n[0] += 1; return f'{p}{n[0]}'
def init(a, p='w'):
    k = name(p); inits.append(nh.from_array(a, k)); return k
def op(kind, ins, **kw):
    o = name(); nodes.append(h.make_node(kind, ins, [o], name=name(kind), **kw)); return o
def conv(x, ci, co, k, s=1, size=None, act=True, bias=None):
    # Gains that keep the activations near one; the scores' spread is that of a trained network.
    gain = 1.6 if bias is None else 40.0
    w = (rng.standard_normal((co, ci, k, k)) * (gain / np.sqrt(ci*k*k))).astype(ft)
    b = (np.zeros(co) if bias is None else bias).astype(ft)
    o = op('Conv', [x, init(w), init(b)], kernel_shape=[k,k], strides=[s,s], pads=[k//2]*4)
    flops[0] += 2*ci*co*k*k*size*size
    if act: o = op('Mul', [o, op('Sigmoid', [o])])
    return o
def c2f(x, ci, co, reps, size, add=True):
    c = co//2
    y = conv(x, ci, co, 1, size=size)
    a, b = name(), name()
    nodes.append(h.make_node('Split', [y, init(np.array([c,c],np.int64),'s')], [a,b], axis=1, name=name('Split')))
    parts = [a, b]
    for _ in range(reps):
        z = conv(conv(parts[-1], c, c, 3, size=size), c, c, 3, size=size)
        parts.append(op('Add', [parts[-1], z]) if add else z)
    return conv(op('Concat', parts, axis=1), c*(2+reps), co, 1, size=size)
def up(x):
    return op('Resize', [x, '', init(np.array([1,1,2,2],np.float32),'s')], mode='nearest', nearest_mode='floor', coordinate_transformation_mode='asymmetric')
S = 640
x = op('Cast', ['images'], to=T.FLOAT16) if mode == 'f16' else 'images'
x = conv(x, 3, 32, 3, 2, S//2)
x = conv(x, 32, 64, 3, 2, S//4); x = c2f(x, 64, 64, 1, S//4)
x = conv(x, 64, 128, 3, 2, S//8); p3 = x = c2f(x, 128, 128, 2, S//8)
x = conv(x, 128, 256, 3, 2, S//16); p4 = x = c2f(x, 256, 256, 2, S//16)
x = conv(x, 256, 512, 3, 2, S//32); x = c2f(x, 512, 512, 1, S//32)
y = conv(x, 512, 256, 1, size=S//32)
pools = [y]
for _ in range(3): pools.append(op('MaxPool', [pools[-1]], kernel_shape=[5,5], strides=[1,1], pads=[2]*4))
p5 = conv(op('Concat', pools, axis=1), 1024, 512, 1, size=S//32)
x = c2f(op('Concat', [up(p5), p4], axis=1), 768, 256, 1, S//16, False); q4 = x
x = c2f(op('Concat', [up(x), p3], axis=1), 384, 128, 1, S//8, False); o3 = x
x = c2f(op('Concat', [conv(x,128,128,3,2,S//16), q4], axis=1), 384, 256, 1, S//16, False); o4 = x
o5 = c2f(op('Concat', [conv(x,256,256,3,2,S//32), p5], axis=1), 768, 512, 1, S//32, False)
boxes, scores = [], []
bias = float(sys.argv[3]) if len(sys.argv) > 3 else -7.3
for o, ci, size in ((o3,128,80),(o4,256,40),(o5,512,20)):
    b = conv(conv(conv(o, ci, 64, 3, size=size), 64, 64, 3, size=size), 64, 64, 1, size=size, act=False)
    c = conv(conv(conv(o, ci, 128, 3, size=size), 128, 128, 3, size=size), 128, 80, 1, size=size, act=False, bias=np.full(80, bias))
    boxes.append(op('Reshape', [b, init(np.array([0,64,-1],np.int64),'s')]))
    scores.append(op('Reshape', [c, init(np.array([0,80,-1],np.int64),'s')]))
b = op('Concat', boxes, axis=2); c = op('Concat', scores, axis=2)
# DFL: 4 x 16 bins -> distances
b = op('Reshape', [b, init(np.array([0,4,16,8400],np.int64),'s')])
b = op('Softmax', [op('Transpose', [b], perm=[0,2,1,3])], axis=1)
b = op('Conv', [b, init(np.arange(16).reshape(1,16,1,1).astype(ft))], kernel_shape=[1,1])
b = op('Reshape', [b, init(np.array([0,4,8400],np.int64),'s')])
if half:
    b = op('Cast', [b], to=T.FLOAT); c = op('Cast', [c], to=T.FLOAT)
g, st = [], []
for size, s in ((80,8),(40,16),(20,32)):
    yy, xx = np.meshgrid(np.arange(size)+.5, np.arange(size)+.5, indexing='ij')
    g.append(np.stack([xx.ravel(), yy.ravel()])); st.append(np.full(size*size, s))
g = init(np.concatenate(g,1)[None].astype(np.float32)); st = init(np.concatenate(st)[None,None].astype(np.float32))
lt, rb = name(), name()
nodes.append(h.make_node('Split', [b, init(np.array([2,2],np.int64),'s')], [lt, rb], axis=1, name='splitbox'))
x1 = op('Sub', [g, lt]); x2 = op('Add', [g, rb])
mid = op('Mul', [op('Add', [x1, x2]), init(np.array(.5,np.float32))]); wh = op('Sub', [x2, x1])
bb = op('Mul', [op('Concat', [mid, wh], axis=1), st])
last = [bb, op('Sigmoid', [c])]
if all16:
    last = [op('Cast', [o], to=T.FLOAT16) for o in last]
nodes.append(h.make_node('Concat', last, ['output0'], axis=1, name='last'))
end = T.FLOAT16 if all16 else T.FLOAT
graph = h.make_graph(nodes, 'yolo-s-shaped', [h.make_tensor_value_info('images', end, ['batch',3,S,S])],
    [h.make_tensor_value_info('output0', end, ['batch',84,8400])], inits)
m = h.make_model(graph, opset_imports=[h.make_opsetid('',17)], ir_version=9)
onnx.checker.check_model(m)
onnx.save(m, sys.argv[1])
print(sys.argv[1], flops[0]/1e9, 'GFLOP', sum(np.prod(i.dims) for i in inits)/1e6, 'M parameters')
