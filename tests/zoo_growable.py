"""What can grow in each network of the zoo, and how many units it has: "network: axis=size axis=size"."""


def parsed(text: str) -> dict[str, dict[str, int]]:
    """Return sizes of axes by network; a line that is indented goes on with the one before."""
    sizes: dict[str, dict[str, int]] = {}
    for line in text.strip().replace("\n    ", " ").splitlines():
        name, _, axes = line.partition(": ")
        sizes[name.rstrip(":")] = {axis: int(size) for axis, _, size in (word.rpartition("=") for word in axes.split())}
    return sizes


GROWABLE = parsed("""
conv1d of gpt-2: 0=6
conv1d, width from the weight: 0=6
addmm: 0=5 2=4
addmm across: 0=5 2=4
x @ w.T: 0=5 2=4
x @ w: 0=5 2=4
matmul: 0=5 2=4
w @ x: 0=5 2=4
mm: 0=5 2=4
baddbmm: 0=5 2=4
bmm: 0=5 2=4
einsum: 0=5 2=4
einsum across:
tensordot:
sum of products:
scaled weight: 0=5 2=4
standardised weight:
view as: a=6
reshape as: a=6
expand as: first=1
bilinear: a=4 b=5 pair=6
film: condition=4
highway: stem=5
swiglu, chunk: stem=5 w13=4
swiglu, split: stem=5 w13=4
swiglu, stored split: stem=5 w13=4
swiglu, stored slices: stem=5 w13=4
swiglu, interleaved: stem=5 w13=4
swiglu, unflatten: stem=5 w13=4
split: b=5
spatial gate: stem=4
mixer: token_up=7 channel_up=6
mixer without norm: stem=4 channel_up=6
tied decoder: embed=4 up=6
factored embedding: project=5 up=6
repeated block: stem=4 block.0=6
embedding bag, sum: bag=4 hidden=5
embedding bag, mean: bag=4 hidden=5
low rank: a=5 b=4 down=2
experts:
scaled branches: stem=4 a=6 c=5
weight norm:
weight norm, convolution:
weight norm, old:
spectral norm:
spectral norm, old:
orthogonal:
prelu: 0=5 2=4
maxout: first=4
glu module: 0=4
softmax over channels:
cumulative: first=5
resnext: stem.0=4 down.0=2
resnext, four groups: stem.0=4 down.0=4
grouped chain: 0=2
depthwise multiplier: 0=4
transposed: 0=4 2=5
transposed, grouped: 0=2
transposed, depthwise: 0=4
transposed, one dimension: 0=4 2=5
three dimensions: 0=4
pixel shuffle: 0=4 2=3
pixel shuffle at the end: 0=4
pixel unshuffle: 0=4 3=5
channel shuffle:
channel shuffle by hand:
shuffle unit: stem.0=2 branches.0.0.0=4 branches.1.0.0=4
dense: stem=4 layers.0.2=5 layers.0.5=3 layers.1.2=5 layers.1.5=3 layers.2.2=5 layers.2.5=3 transition.0=5
flatten: a=4 b=5 c=6
flatten, view: a=4 b=5 c=6
flatten, constant: a=4 c=6
flatten, positions first: a=4 b=5 c=6
squeeze and excite: stem.0=4 up=6 squeeze=3
projection: stem.0=4 first.0=6 second.0=5
bilinear u-net: a.0=4 b.0=5 c.0=6 d.0=5 e.0=4
transposed u-net: a.0=4 b.0=5 c.0=6 d.0=5 up=5 e.0=4
stochastic depth: stem.0=4 branch.0.0=5
wavenet: stem=4 tanh.0=5 skip.0=3 tanh.1=5
generator: layers.2=5
generator, view: first=6 layers.2=5
autoencoder with norms: 0=4 3=3 5=4
group norm: stem=2 up=2
group norm, one group: stem=1 up=1
group norm, a group a channel: stem=8 up=8
instance norm: stem=8 up=8
instance norm, affine: stem=8 up=8
instance norm, tracked: stem=8 up=8
local response:
dropout of channels: 0=4
padding modes: 0=4
fold: 2=5
flipped: first=4
attention, stored sizes: stem=5 block.q=2
attention, stored head size: stem=5 block.q=2
attention, stored heads: stem=5 block.q=2
attention, hidden shape: stem=5 block.q=2
attention, channels divided: stem=5 block.q=2
attention, constants: stem=5
attention, unflatten: stem=5 block.q=2
attention, unflatten, stored sizes: stem=5 block.q=2
attention, sizes of q: stem=5 block.q=2
attention, split and stack: stem=5
attention, head size last: stem=5 block.q=2
attention, merged by stored sizes: stem=5 block.q=2
attention, merged by -1: stem=5 block.q=2
attention, merged by constant: stem=5
attention, merged by width of out: stem=5 block.q=2
attention, merged by view: stem=5 block.q=2
attention, softmax in another type: stem=5 block.q=2
sdpa: stem=5 block.q=2
sdpa, stored head size: stem=5 block.q=2
one head: stem=5 block.v=6
many heads of size 1: stem=5 block.q=6
fused, timm: stem=5 block.qkv=2
fused, chunk: stem=5 block.qkv=2
fused, stored split: stem=5 block.qkv=2
fused, stored slices: stem=5 block.qkv=2
fused, heads first: stem=5 block.qkv=2
grouped, interleave: stem=5 block.q=2
grouped, expand: stem=5 block.q=2
grouped, enable_gqa: stem=5 block.q=2
grouped, groups as a dimension: stem=5 block.q=2
grouped, computed number: stem=5 block.q=2
multi-query: stem=5 block.q=4
rotary: stem=5 block.q=2
rotary, grouped: stem=5 block.q=2
mask, filled: stem=5 block.q=2
mask, sdpa: stem=5 block.q=2
mask, causal: stem=5 block.q=2
multihead: stem=2
multihead, weights: stem=2
multihead, sequence first: stem=2
multihead, no bias: stem=2
multihead across: stem=2 keys=4 values=5
multihead across, weights: stem=2 keys=4 values=5
encoder stack: layers.layers.0.linear1=6 layers.layers.1.linear1=6
decoder layer: layer.linear1=6
learned queries: stem=5 k=6
image attention: stem=4 qkv=2
pooled attention: stem=5 hidden=4
linear attention: stem=5 block.q=2
vision transformer: patches=4 attention.q=2 up=5
rms norm: stem=5 blocks.0.0=6 blocks.1.0=6
rms norm by hand: stem=5 blocks.0.0=6 blocks.1.0=6
rms norm by length: blocks.0.0=6 blocks.1.0=6
rms norm, no gain: blocks.0.0=6 blocks.1.0=6
rms norm last: stem=5 blocks.0.0=6 blocks.1.0=6
rms norm inside: down=4
layer norm on a stream: blocks.0.0=6 blocks.1.0=6
layer norm by hand: blocks.0.0=6 blocks.1.0=6
layer norm last: blocks.0.0=6 blocks.1.0=6
layer norm inside: down=4
unit length: blocks.0.0=6 blocks.1.0=6
global response: blocks.0.0=6 blocks.1.0=6
no norm: stem=5 blocks.0.0=6 blocks.1.0=6
batch norm of a stream: stem=4 up=6
batch norm of rows:
lstm: embed=4 layer=5 hidden=6
lstm, two layers both ways: embed=4 layer=5 hidden=6
lstm, projected: hidden=6
gru: embed=4 layer=5 hidden=6
gru, last state: embed=4 layer=5 hidden=6
rnn: embed=4 layer=5 hidden=6
gru cell: stem=4 cell=5
lstm cell: stem=4 cell=5
minimal recurrence: gate=4
control flow: a=4 b=5
counted loop: a=4 b=5
early exit: a=4 b=5
chosen rows: a=4
to a dict: a=4 b=5
to a tuple: b=5
to a named tuple: a=4 b=5
to a dataclass: a=4 b=5
nested inputs: a=4
siamese: tower.0=5
several heads: trunk=5 heads.b.0=4
positions: stem:2=3 up=5
variational: a=6 latent=4 b=5
code book:
in place: first=4
assigned slices: first=5
complex:
sorted: first=5
sorted channels:
first channels:
constant mask:
mean over channels beside:
basic blocks: stem=4 blocks.0.conv1=4 blocks.1.conv1=4
basic blocks, no last activation: stem=4 blocks.0.conv1=4 blocks.1.conv1=4
basic blocks in stages: stem=4 stages.0.0.conv1=4 stages.0.1.conv1=4 stages.1.0.0=4 stages.1.1.conv1=4
    stages.1.2.conv1=4
pre-activation blocks: stem=4 blocks.0.conv1=6 blocks.1.conv1=6
bottleneck blocks: stem=4 blocks.0.down.0=2 blocks.0.squeeze=2 blocks.1.down.0=2 blocks.1.squeeze=2
convnext blocks: blocks.0.up=6 blocks.1.up=6
transformer blocks: blocks.0.attention.q=2 blocks.0.gate=6 blocks.1.attention.q=2 blocks.1.gate=6
transformer blocks, rms norm: stem=5 blocks.0.attention.q=2 blocks.0.gate=6 blocks.1.attention.q=2
    blocks.1.gate=6
transformer blocks, rms norm by hand: stem=5 blocks.0.attention.q=2 blocks.0.gate=6 blocks.1.attention.q=2
    blocks.1.gate=6
parallel blocks: blocks.0.attention.q=2 blocks.0.mlp.0=6 blocks.1.attention.q=2 blocks.1.mlp.0=6
post-norm blocks: blocks.0.mlp.0=6 blocks.1.mlp.0=6
rezero blocks: stem=5 blocks.0.mlp.0=6 blocks.1.mlp.0=6
blocks on tuples: stem=5 blocks.0.mlp.0=6 blocks.1.mlp.0=6
""")

HF_GROWABLE = parsed("""
gpt2: transformer.h.0.attn.c_attn=4 transformer.h.0.mlp.c_fc=64 transformer.h.1.attn.c_attn=4
    transformer.h.1.mlp.c_fc=64
llama: model.embed_tokens=16 model.layers.0.self_attn.q_proj=2 model.layers.0.mlp.gate_proj=20
    model.layers.1.self_attn.q_proj=2 model.layers.1.mlp.gate_proj=20
qwen2: model.embed_tokens=16 model.layers.0.self_attn.q_proj=2 model.layers.0.mlp.gate_proj=20
    model.layers.1.self_attn.q_proj=2 model.layers.1.mlp.gate_proj=20
bert: bert.encoder.layer.0.attention.self.query=4 bert.encoder.layer.0.intermediate.dense=20
    bert.encoder.layer.1.attention.self.query=4 bert.encoder.layer.1.intermediate.dense=20 bert.pooler.dense=16
vit: vit.layers.0.attention.q_proj=4 vit.layers.0.mlp.fc1=20 vit.layers.1.attention.q_proj=4
    vit.layers.1.mlp.fc1=20
t5 encoder: encoder.block.0.layer.0.SelfAttention.q=3 encoder.block.0.layer.1.DenseReluDense.wi=20
    encoder.block.1.layer.1.DenseReluDense.wi=20
convnext: convnext.encoder.stages.0.layers.0.pwconv1=32 convnext.encoder.stages.1.layers.0.pwconv1=48
    convnext.encoder.stages.1.layers.1.pwconv1=48
resnet: resnet.embedder.embedder.convolution=8 resnet.encoder.stages.0.layers.0.layer.0.convolution=4
    resnet.encoder.stages.0.layers.0.layer.1.convolution=4
    resnet.encoder.stages.0.layers.0.layer.2.convolution=16
    resnet.encoder.stages.0.layers.1.layer.0.convolution=4
    resnet.encoder.stages.0.layers.1.layer.1.convolution=4
    resnet.encoder.stages.1.layers.0.layer.0.convolution=8
    resnet.encoder.stages.1.layers.0.layer.1.convolution=8
    resnet.encoder.stages.1.layers.0.layer.2.convolution=32
    resnet.encoder.stages.1.layers.1.layer.0.convolution=8
    resnet.encoder.stages.1.layers.1.layer.1.convolution=8
mobilenetv2: mobilenet_v2.conv_stem.first_conv.convolution=8 mobilenet_v2.conv_stem.reduce_1x1.convolution=8
    mobilenet_v2.layer.0.expand_1x1.convolution=48 mobilenet_v2.layer.0.reduce_1x1.convolution=8
    mobilenet_v2.layer.1.expand_1x1.convolution=48 mobilenet_v2.layer.2.expand_1x1.convolution=48
    mobilenet_v2.layer.2.reduce_1x1.convolution=8 mobilenet_v2.layer.3.expand_1x1.convolution=48
    mobilenet_v2.layer.4.expand_1x1.convolution=48 mobilenet_v2.layer.5.expand_1x1.convolution=48
    mobilenet_v2.layer.5.reduce_1x1.convolution=16 mobilenet_v2.layer.6.expand_1x1.convolution=96
    mobilenet_v2.layer.7.expand_1x1.convolution=96 mobilenet_v2.layer.8.expand_1x1.convolution=96
    mobilenet_v2.layer.9.expand_1x1.convolution=96 mobilenet_v2.layer.9.reduce_1x1.convolution=24
    mobilenet_v2.layer.10.expand_1x1.convolution=144 mobilenet_v2.layer.11.expand_1x1.convolution=144
    mobilenet_v2.layer.12.expand_1x1.convolution=144 mobilenet_v2.layer.12.reduce_1x1.convolution=40
    mobilenet_v2.layer.13.expand_1x1.convolution=240 mobilenet_v2.layer.14.expand_1x1.convolution=240
    mobilenet_v2.layer.15.expand_1x1.convolution=240 mobilenet_v2.layer.15.reduce_1x1.convolution=80
    mobilenet_v2.conv_1x1.convolution=1280
swin: swin.encoder.layers.0.blocks.0.attention.q_proj=2 swin.encoder.layers.0.blocks.0.mlp.fc1=32
    swin.encoder.layers.0.blocks.1.attention.q_proj=2 swin.encoder.layers.0.blocks.1.mlp.fc1=32
    swin.encoder.layers.1.blocks.0.attention.q_proj=4 swin.encoder.layers.1.blocks.0.mlp.fc1=64
    swin.encoder.layers.1.blocks.1.attention.q_proj=4 swin.encoder.layers.1.blocks.1.mlp.fc1=64
""")
