// The kernels of the GPU set. One thread, or one fixed tree of threads, owns each element of a result. Nothing is added
// atomically, so no bit depends on timing (KRN-008). `launch.py` lists names, arguments and threads of a block. Kernels
// check nothing, because `on_device.py` checks their arguments before it launches them.
//
//     T  type of products: float or double            V  type of stored values: T, or 16 bits that stand for a float
//
// Activations of `product` and `group_transposed` are (features, tokens), because neighbouring threads then read
// neighbouring tokens and the same stored weight.

typedef long long i64;
typedef unsigned u32;

// ---- numbers -----------------------------------------------------------------------------------

struct bfloat16 { unsigned short bits; };
struct float16 { unsigned short bits; };

__device__ inline float float_of(u32 bits) {
  union { u32 bits; float number; } both;
  both.bits = bits;
  return both.number;
}

__device__ inline float number(float value) { return value; }
__device__ inline double number(double value) { return value; }
__device__ inline float number(bfloat16 value) { return float_of((u32)value.bits << 16); }
__device__ inline float number(float16 value) {
  u32 sign = (u32)(value.bits & 0x8000u) << 16, exponent = (value.bits >> 10) & 31u, fraction = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: fraction times 2^-24, exact
    float magnitude = (float)fraction * 5.9604644775390625e-8f;
    return sign ? -magnitude : magnitude;
  }
  u32 shifted = exponent == 31 ? 255u : exponent + 112u;
  return float_of(sign | shifted << 23 | fraction << 13);
}

// A sum of products. Eight products make a part, and parts are added up by Kahan's compensated summation. The error is at
// most 10 u times the gauge for any length, zeros of padding included; KRN-006 allows 8 + 2 sqrt(K).
const int TERMS = 8;

template <typename T>
struct Sum {
  T total, lost, part;
  int terms;
  __device__ Sum() : total(0), lost(0), part(0), terms(0) {}
  __device__ void add(T a, T b) {
    part += a * b;
    if (++terms == TERMS) close();
  }
  __device__ void close() {
    T next = part - lost, sum = total + next;
    lost = (sum - total) - next;
    total = sum;
    part = 0;
    terms = 0;
  }
  __device__ T value() {
    close();
    return total;
  }
};

// ---- the stored weights of a row ---------------------------------------------------------------

// CSR: row r has entries pointer[r] to pointer[r + 1]. For the transposed matrix `order` holds the slot of each entry.
struct Csr {
  const i64* pointer;
  const int* index;
  const u32* order;  // null: entry s is slot s
  __device__ i64 begin(i64 row) const { return pointer[row]; }
  __device__ i64 end(i64 row) const { return pointer[row + 1]; }
  __device__ i64 column(i64, i64 entry) const { return index[entry]; }
  __device__ i64 slot(i64 entry) const { return order ? (i64)order[entry] : entry; }
};

// N:M: every group of m columns has n entries; `position` holds the column of each within its group. Unused entries are
// zeros at column 0.
struct Groups {
  const unsigned char* position;
  i64 per_row;  // entries of a row: n times its groups
  int n, m;
  __device__ i64 begin(i64 row) const { return row * per_row; }
  __device__ i64 end(i64 row) const { return (row + 1) * per_row; }
  __device__ i64 column(i64 row, i64 entry) const {
    return (i64)((u32)(entry - row * per_row) / (u32)n) * m + position[entry];
  }
  __device__ i64 slot(i64 entry) const { return entry; }
};

// ---- y = x W^T, many tokens --------------------------------------------------------------------

const int LANES = 32;     // threads of a block along tokens, one warp
const int ROWS = 8;       // threads of a block along rows
const int EACH = 4;       // tokens of a thread

// x (columns, n_tokens), y (n_rows, n_tokens); a thread owns EACH elements of y
template <typename V, typename T, typename Rows>
__device__ void product(const V* values, Rows rows, const T* x, T* y, i64 n_rows, i64 n_tokens) {
  i64 row = (i64)blockIdx.x * ROWS + threadIdx.y;
  i64 first = (i64)blockIdx.y * (LANES * EACH) + threadIdx.x;
  if (row >= n_rows) return;
  Sum<T> sums[EACH];
  for (i64 entry = rows.begin(row), end = rows.end(row); entry < end; ++entry) {
    T weight = number(values[rows.slot(entry)]);
    const T* line = x + rows.column(row, entry) * n_tokens;
    for (int k = 0; k < EACH; ++k) {
      i64 token = first + k * LANES;
      if (token < n_tokens) sums[k].add(weight, line[token]);
    }
  }
  for (int k = 0; k < EACH; ++k) {
    i64 token = first + k * LANES;
    if (token < n_tokens) y[row * n_tokens + token] = sums[k].value();
  }
}

// ---- y = x W^T, few tokens ---------------------------------------------------------------------

// x (n_tokens, n_columns), y (n_tokens, n_rows); LANES threads share a row, and a fixed tree adds up their sums
template <typename V, typename T, typename Rows>
__device__ void few(const V* values, Rows rows, const T* x, T* y, i64 n_rows, i64 n_columns) {
  __shared__ T found[ROWS][LANES];
  i64 row = (i64)blockIdx.x * ROWS + threadIdx.y, token = blockIdx.y;
  Sum<T> sum;
  if (row < n_rows) {
    for (i64 entry = rows.begin(row) + threadIdx.x, end = rows.end(row); entry < end; entry += LANES) {
      sum.add(number(values[rows.slot(entry)]), x[token * n_columns + rows.column(row, entry)]);
    }
  }
  T* line = found[threadIdx.y];
  line[threadIdx.x] = sum.value();
  for (int half = LANES / 2; half > 0; half /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < half) line[threadIdx.x] += line[threadIdx.x + half];
  }
  if (row < n_rows && threadIdx.x == 0) y[token * n_rows + row] = line[0];
}

#define CSR_KERNELS(NAME, V, T)                                                                                       \
  extern "C" __global__ void csr_product_##NAME(const V* values, const i64* pointer, const int* index,                \
                                                const u32* order, const T* x, T* y, i64 n_rows, i64 n_tokens) {       \
    Csr rows = {pointer, index, order};                                                                               \
    product<V, T>(values, rows, x, y, n_rows, n_tokens);                                                              \
  }                                                                                                                   \
  extern "C" __global__ void csr_few_##NAME(const V* values, const i64* pointer, const int* index, const u32* order,  \
                                            const T* x, T* y, i64 n_rows, i64 n_columns) {                            \
    Csr rows = {pointer, index, order};                                                                               \
    few<V, T>(values, rows, x, y, n_rows, n_columns);                                                                 \
  }

CSR_KERNELS(float32, float, float)
CSR_KERNELS(float64, double, double)
CSR_KERNELS(bfloat16, bfloat16, float)
CSR_KERNELS(float16, float16, float)

// ---- N:M ---------------------------------------------------------------------------------------

// dx = dy W. dy (n_rows, n_tokens), dx (n_groups * m, n_tokens); a thread owns EACH elements of dx, and reads the n
// entries of its group in every row
template <typename T>
__device__ void group_transposed(const T* values, const unsigned char* position, const T* dy, T* dx, i64 n_rows,
                                 i64 n_groups, int n, int m, i64 n_tokens) {
  i64 column = (i64)blockIdx.x * ROWS + threadIdx.y;
  i64 first = (i64)blockIdx.y * (LANES * EACH) + threadIdx.x;
  if (column >= n_groups * m) return;
  i64 group = column / m;
  int within = (int)(column % m);
  Sum<T> sums[EACH];
  for (i64 row = 0; row < n_rows; ++row) {
    i64 entry = (row * n_groups + group) * n;
    for (int j = 0; j < n; ++j) {
      if (position[entry + j] != within) continue;
      for (int k = 0; k < EACH; ++k) {
        i64 token = first + k * LANES;
        if (token < n_tokens) sums[k].add(values[entry + j], dy[row * n_tokens + token]);
      }
    }
  }
  for (int k = 0; k < EACH; ++k) {
    i64 token = first + k * LANES;
    if (token < n_tokens) dx[column * n_tokens + token] = sums[k].value();
  }
}

#define GROUP_KERNELS(NAME, T)                                                                                        \
  extern "C" __global__ void group_product_##NAME(const T* values, const unsigned char* position, const T* x, T* y,   \
                                                  i64 n_rows, i64 n_groups, int n, int m, i64 n_tokens) {             \
    Groups rows = {position, n_groups * n, n, m};                                                                     \
    product<T, T>(values, rows, x, y, n_rows, n_tokens);                                                              \
  }                                                                                                                   \
  extern "C" __global__ void group_few_##NAME(const T* values, const unsigned char* position, const T* x, T* y,       \
                                              i64 n_rows, i64 n_groups, int n, int m) {                               \
    Groups rows = {position, n_groups * n, n, m};                                                                     \
    few<T, T>(values, rows, x, y, n_rows, n_groups * m);                                                              \
  }                                                                                                                   \
  extern "C" __global__ void group_transposed_##NAME(const T* values, const unsigned char* position, const T* dy,     \
                                                     T* dx, i64 n_rows, i64 n_groups, int n, int m, i64 n_tokens) {   \
    group_transposed<T>(values, position, dy, dx, n_rows, n_groups, n, m, n_tokens);                                  \
  }

GROUP_KERNELS(float32, float)
GROUP_KERNELS(float64, double)

// ---- dW at stored positions --------------------------------------------------------------------

const int THREADS = 256;  // threads of a one-dimensional block

// The row of a slot: the last row that starts at this slot or before it.
__device__ inline i64 row_of(const i64* pointer, i64 n_rows, i64 slot) {
  i64 low = 0, high = n_rows;
  while (high - low > 1) {
    i64 middle = (low + high) / 2;
    if (pointer[middle] <= slot) low = middle;
    else high = middle;
  }
  return low;
}

// dy (n_tokens, n_rows), x (n_tokens, n_columns); a thread owns one slot
template <typename T>
__device__ void sample(const i64* pointer, const int* index, const T* dy, const T* x, T* result, i64 n_slots,
                       i64 n_rows, i64 n_columns, i64 n_tokens) {
  i64 slot = (i64)blockIdx.x * THREADS + threadIdx.x;
  if (slot >= n_slots) return;
  i64 row = row_of(pointer, n_rows, slot), column = index[slot];
  Sum<T> sum;
  for (i64 token = 0; token < n_tokens; ++token) sum.add(dy[token * n_rows + row], x[token * n_columns + column]);
  result[slot] = sum.value();
}

#define SAMPLE_KERNEL(NAME, T)                                                                                        \
  extern "C" __global__ void sample_##NAME(const i64* pointer, const int* index, const T* dy, const T* x, T* result,  \
                                           i64 n_slots, i64 n_rows, i64 n_columns, i64 n_tokens) {                    \
    sample<T>(pointer, index, dy, x, result, n_slots, n_rows, n_columns, n_tokens);                                   \
  }

SAMPLE_KERNEL(float32, float)
SAMPLE_KERNEL(float64, double)

// ---- rows of 16-bit weights as a dense tile ----------------------------------------------------

// tile (rows of the launch, n_columns) must hold zeros before the launch; a block writes one row
template <typename V>
__device__ void expand(const V* values, const i64* pointer, const int* index, i64 first_row, i64 n_columns,
                       float* tile) {
  i64 row = first_row + blockIdx.x;
  for (i64 slot = pointer[row] + threadIdx.x; slot < pointer[row + 1]; slot += THREADS) {
    tile[(i64)blockIdx.x * n_columns + index[slot]] = number(values[slot]);
  }
}

#define EXPAND_KERNEL(NAME, V)                                                                                        \
  extern "C" __global__ void expand_##NAME(const V* values, const i64* pointer, const int* index, i64 first_row,      \
                                           i64 n_columns, float* tile) {                                              \
    expand<V>(values, pointer, index, first_row, n_columns, tile);                                                    \
  }

EXPAND_KERNEL(bfloat16, bfloat16)
EXPAND_KERNEL(float16, float16)

// ---- entries that exceed a number --------------------------------------------------------------

// A block compares THREADS * RUN entries, a thread RUN neighbouring ones. The first kernel counts those that exceed.
// The second writes their indices, ascending, behind those of the blocks before.
const int RUN = 4;

template <typename T>
__device__ bool exceeds(T value, T least) { return !((value < 0 ? -value : value) <= least); }  // true for NaN

template <typename T>
__device__ int count_run(const T* values, T least, i64 n, i64 first) {
  int count = 0;
  for (i64 i = first; i < first + RUN && i < n; ++i) count += exceeds(values[i], least);
  return count;
}

// Replaces the count of each thread by the sum of the counts up to and including its own.
__device__ inline void sum_up(int* counts) {
  for (int step = 1; step < THREADS; step *= 2) {
    __syncthreads();
    int before = (int)threadIdx.x >= step ? counts[threadIdx.x - step] : 0;
    __syncthreads();
    counts[threadIdx.x] += before;
  }
  __syncthreads();
}

template <typename T>
__device__ void exceeding_count(const T* values, T least, i64 n, i64* counts) {
  __shared__ int found[THREADS];
  found[threadIdx.x] = count_run(values, least, n, ((i64)blockIdx.x * THREADS + threadIdx.x) * RUN);
  sum_up(found);
  if (threadIdx.x == 0) counts[blockIdx.x] = found[THREADS - 1];
}

template <typename T>
__device__ void exceeding_write(const T* values, T least, i64 n, const i64* sums, i64* result) {
  __shared__ int found[THREADS];
  i64 first = ((i64)blockIdx.x * THREADS + threadIdx.x) * RUN;
  int own = count_run(values, least, n, first);
  found[threadIdx.x] = own;
  sum_up(found);
  // sums[b] includes block b, as found[t] includes thread t
  i64 place = (blockIdx.x ? sums[blockIdx.x - 1] : 0) + found[threadIdx.x] - own;
  for (i64 i = first; i < first + RUN && i < n; ++i) {
    if (exceeds(values[i], least)) result[place++] = i;
  }
}

#define EXCEEDING_KERNELS(NAME, T)                                                                                    \
  extern "C" __global__ void exceeding_count_##NAME(const T* values, T least, i64 n, i64* counts) {                   \
    exceeding_count<T>(values, least, n, counts);                                                                     \
  }                                                                                                                   \
  extern "C" __global__ void exceeding_write_##NAME(const T* values, T least, i64 n, const i64* sums, i64* result) {  \
    exceeding_write<T>(values, least, n, sums, result);                                                               \
  }

EXCEEDING_KERNELS(float32, float)
EXCEEDING_KERNELS(float64, double)
