"""What tensors' side and compiled loops have to agree on; needs neither torch nor Numba."""

# ------------------------------------------------------------------------------------------------------------ a call
# Numbers that describe a call: which of the volume's pieces are the next ones, how many there are, how many to take at
# once, how many threads have taken their memory; the shape (B, C, V), the lengths of the two innermost axes; from
# OPTIONS on, what a loop needs to know; from TENSORS on, RECORD numbers for each tensor.
NEXT, COUNT, STEP, TAKEN, BATCH, CHANNELS, VOXELS, MIDDLE, INNER, SCRATCH, BLOCK, OPTIONS = range(12)
# What the walk needs to know; the last ones are addresses, and the bits of a float64.
ACTIVATION, LABELS, COUNTS, FURTHER, LIKELIHOOD, IGNORING, IGNORED, WEIGHTS, MERGING, CLASSES = range(OPTIONS, 21)
SUMS, UPSTREAM, INNER_FACTORS, OUTER_FACTORS, GAMMA, EXCLUSIVE = range(21, 27)
# What the sorting of Lovasz losses needs to know in their place, besides LABELS and WEIGHTS.
PENALIZE, FIRST_CLASS, SHARES_AT_HAND, WORK_ROWS, ERRORS_AT, SLOPES_AT, RESULTS = 11, 13, 14, 15, 21, 22, 23
# What the sums over parts need to know besides ACTIVATION, WEIGHTS, SUMS, UPSTREAM and FIRST_CLASS.
MOST_PARTS, NEAREST, ENTROPY, STRIP = range(27, 31)
STRIPS, OF_PART = 16, 3  # tables that a sample is added up in, and sums of a part
DIGIT_STARTS = 3 * 2**11  # numbers of 8 bytes
TENSORS = 32
Z, TARGET, WEIGHT, OUT = range(4)
# Of a tensor: address, type, channels, whether one stride leads from voxel to voxel, and strides in elements.
ADDRESS, DTYPE, WIDTH, EVEN, OF_SAMPLE, OF_CHANNEL, OF_OUTER, OF_MIDDLE, OF_INNER = range(9)
RECORD = 9
ENDS = TENSORS + 4 * RECORD

PIECE = 2**14  # voxels of a sample, of which one thread takes care
BLOCK_OF_FEW, BLOCK_OF_MANY, FEW = 512, 256, 3  # voxels that are read at once, of up to so many channels, or more
SINGLE_ROWS = 16  # that a thread works in, besides three for each channel

DTYPES = (
    "bool",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)
(BOOL, UINT8, INT8, UINT16, INT16, UINT32, INT32, UINT64, INT64, FLOAT16, BFLOAT16, FLOAT32, FLOAT64) = range(13)
SIZES = (1, 1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8)  # bytes

# -------------------------------------------------------------------------------------------------------------- sums
# Sums of a sample and class, as .operators has them, and behind them what is out of range in target, weights and input.
N, G, TP, FP, FN, FIRST, SECOND, INSIDE, OUTSIDE, BAD_TARGET, BAD_WEIGHT, BAD_INPUT = range(12)
ROWS = 12

PROBABILITIES, SIGMOID, SOFTMAX, PAIR = range(4)  # a pair is a softmax over two channels, of which the second counts
NO_COUNTS, PRODUCTS, SHARED = range(3)  # of p and g: none, p g, or min(p, g)
NO_MORE, NEGATIVES, SQUARES, ERRORS = range(4)
NO_IGNORING, A_VALUE, A_CHANNEL = range(3)
NO_WEIGHTS, WEIGHED, UNCHECKED, SIGNED = range(4)  # signed ones may be below 0, and 0 hides nothing
NO_LIKELIHOOD, CROSS_ENTROPY, FOCAL, POWER, HINGE = range(5)
