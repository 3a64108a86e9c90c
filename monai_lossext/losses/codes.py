"""What tensors' side and compiled loops have to agree on; needs neither torch nor Numba."""

# Numbers that describe a call: which of the volume's pieces are the next ones, how many there are, how many to take at
# once; the input's shape (B, C, V); from OPTIONS on, what a loop needs to know.
NEXT, COUNT, STEP, BATCH, CHANNELS, VOXELS, OPTIONS = range(7)
NUMBERS = 12
PIECE = 2**14  # voxels of a sample, of which one thread takes care

PROBABILITIES, SIGMOID, SOFTMAX, PAIR = range(4)
ACTIVATIONS = {None: PROBABILITIES, "sigmoid": SIGMOID, "softmax": SOFTMAX, "pair": PAIR}  # as .fused.Recipe has them

NO_MORE, NEGATIVES, SQUARES, ERRORS = range(4)
# Further sums, as .counts.EXTRA has them.
FURTHER = {None: NO_MORE, "negatives": NEGATIVES, "squares": SQUARES, "errors": ERRORS}

IN_CHANNELS, LABELS, FLOATING_LABELS = range(3)  # what a target holds

SUMS = 7  # of a piece: size, tp, fp, fn, up to two more, and how many values of the target are out of range
