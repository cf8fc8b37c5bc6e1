/* seft.h: Sparsity Evolution Fine-Tuning on plain arrays, in C99 with libc and libm only.
 *
 * SPEC.md says what is computed; a clause id such as DROP-001 stands above the line that fulfils it. A matrix is
 * (out, in); its flat positions are row * in + column, int64_t, strictly increasing. Every array belongs to the caller,
 * inputs are never written to, and outputs must have the room that the comment says.
 *
 * Functions that can refuse return 1 for success and 0 for failure. On failure they fill `error`: its clause is the one
 * that the inputs break, or empty if memory ran out. There is no global state. Functions on values exist for double
 * (_f64) and for float (_f32). Compile with -ffp-contract=off, because no operation may be fused with another
 * (NUM-006). */
#ifndef SEFT_H
#define SEFT_H

#include "seft_file.h" /* seft_error, and the reader of checkpoint files */

#ifdef __cplusplus
extern "C" {
#endif

int seft_refuse(seft_error *error, const char *clause, const char *message); /* returns 0 */

/* ------------------------------------------------------------------------------------------- chapter 2: topology.c */

typedef struct {
    int64_t out, in, nnz;
    const int64_t *indptr;  /* out + 1 */
    const int64_t *indices; /* nnz */
} seft_topology;

/* Checks that row pointers and columns, with these numbers of entries, are a topology (TOP-001, TOP-002). */
int seft_topology_check(int64_t out, int64_t in, const int64_t *indptr, int64_t pointers, const int64_t *indices,
                        int64_t columns, seft_error *error);
void seft_flat(const seft_topology *topology, int64_t *positions); /* nnz */
/* Checks that at most `most` of every `group` consecutive columns are stored (TOP-005); the positions must be valid. */
int seft_groups_check(int64_t in, const int64_t *positions, int64_t count, int64_t most, int64_t group,
                      seft_error *error);
int seft_positions_check(int64_t out, int64_t in, const int64_t *positions, int64_t count, seft_error *error);
void seft_rows_of(int64_t out, int64_t in, const int64_t *positions, int64_t count, int64_t *indptr, int64_t *indices);

/* Computes the change from old to new positions: for each new slot the old slot of the same position, or -1. */
void seft_change(const int64_t *old, int64_t old_count, const int64_t *new_, int64_t new_count, int64_t *source);
void seft_realign_f64(const double *values, const int64_t *source, int64_t count, double fill, double *moved);
void seft_realign_f32(const float *values, const int64_t *source, int64_t count, float fill, float *moved);
void seft_realign_i64(const int64_t *values, const int64_t *source, int64_t count, int64_t fill, int64_t *moved);

/* Make the union of two sets of positions, and the positions of a that b lacks. They return the size of the result,
 * which needs room for a_count + b_count positions, or for a_count. */
int64_t seft_union(const int64_t *a, int64_t a_count, const int64_t *b, int64_t b_count, int64_t *both);
int64_t seft_without(const int64_t *a, int64_t a_count, const int64_t *b, int64_t b_count, int64_t *rest);

/* An N:M topology group by group: a mask of m bits for every m columns, m at most 64. */
typedef struct {
    int64_t out, in, m;
    const uint64_t *masks; /* out * in / m */
} seft_groups;

int seft_groups_of(int64_t out, int64_t in, int64_t n, int64_t m, const int64_t *positions, int64_t count,
                   uint64_t *masks, seft_error *error);

/* -------------------------------------------------------------------------------------------- chapter 3: kernels.c */

/* x (n, in), dy (n, out), y (n, out), dx (n, in), row-major; values and gradient in slot order. */
void seft_matmul_f64(int64_t n, const double *x, const seft_topology *w, const double *values, double *y);
void seft_matmul_f32(int64_t n, const float *x, const seft_topology *w, const float *values, float *y);
int seft_matmul_transposed_f64(int64_t n, const double *dy, const seft_topology *w, const double *values, double *dx,
                               seft_error *error);
int seft_matmul_transposed_f32(int64_t n, const float *dy, const seft_topology *w, const float *values, float *dx,
                               seft_error *error);
void seft_sample_f64(int64_t n, const double *dy, const double *x, const seft_topology *w, double *gradient);
void seft_sample_f32(int64_t n, const float *dy, const float *x, const seft_topology *w, float *gradient);

/* The same products with a matrix that is stored group by group. */
void seft_group_matmul_f64(int64_t n, const double *x, const seft_groups *w, const double *values, double *y);
void seft_group_matmul_f32(int64_t n, const float *x, const seft_groups *w, const float *values, float *y);
int seft_group_matmul_transposed_f64(int64_t n, const double *dy, const seft_groups *w, const double *values,
                                     double *dx, seft_error *error);
int seft_group_matmul_transposed_f32(int64_t n, const float *dy, const seft_groups *w, const float *values, float *dx,
                                     seft_error *error);

/* Replaces the values of some slots, in place; refuses before it changes anything (KRN-012, KRN-013). */
int seft_store_f64(double *values, int64_t nnz, const int64_t *slots, int64_t count, const double *new_,
                   seft_error *error);
int seft_store_f32(float *values, int64_t nnz, const int64_t *slots, int64_t count, const float *new_,
                   seft_error *error);

/* Finds the indices of entries with |value| > least, or NaN or infinite; returns how many. */
int64_t seft_exceeding_f64(const double *values, int64_t count, double least, int64_t *indices);
int64_t seft_exceeding_f32(const float *values, int64_t count, float least, int64_t *indices);

/* Computes the mean over `steps` of the sum of dy' x over micro-batches of n[i] rows, as an (out, in) matrix. */
void seft_gradient_f64(int64_t out, int64_t in, int64_t batches, const int64_t *n, const double *const *dy,
                       const double *const *x, int64_t steps, double *gradient);
void seft_gradient_f32(int64_t out, int64_t in, int64_t batches, const int64_t *n, const float *const *dy,
                       const float *const *x, int64_t steps, float *gradient);

/* --------------------------------------------------------------------------------------------- chapter 7: select.c */

/* Choose the ids of the k largest (smallest) scores, ascending. Pass float scores as doubles, which is exact. */
int seft_largest(const double *scores, const int64_t *ids, int64_t count, int64_t k, int64_t *chosen,
                 seft_error *error);
int seft_smallest(const double *scores, const int64_t *ids, int64_t count, int64_t k, int64_t *chosen,
                  seft_error *error);
int seft_count_of(double x, int64_t *count, seft_error *error); /* SEL-006 */

/* Chooses the flat positions of the n largest of every m scores of a row; rows * columns / m * n of them. */
int seft_keep_n_of_m(int64_t rows, int64_t columns, const double *scores, int64_t n, int64_t m, int64_t *kept,
                     seft_error *error);

uint64_t seft_key(const uint64_t *words, int64_t count);
uint64_t seft_draw(uint64_t key, uint64_t number);
double seft_random_score(uint64_t seed, uint64_t matrix, uint64_t step, uint64_t use, uint64_t position);

/* ------------------------------------------------------------------------------------------- chapter 8: schedule.c */

int seft_budget(double density, int64_t out, int64_t in, int64_t stored, int64_t *budget, seft_error *error);
double seft_drop_fraction(double drop_fraction, int64_t step, int64_t last);
int seft_drop_count(double fraction, int64_t slots, int64_t *count, seft_error *error);
int seft_is_event(int64_t step, int64_t steps, int64_t evolve_every);
typedef enum { SEFT_CONSTANT, SEFT_LINEAR, SEFT_COSINE } seft_rate;
double seft_learning_rate(seft_rate kind, double lr, int64_t step, int64_t steps, int64_t warmup);

/* --------------------------------------------------------------------------------------------- chapter 8: update.c */

/* Chooses the initial positions: the n positions of the base with the smallest draws (DLT-004). */
int seft_initial_random(const int64_t *base, int64_t count, int64_t n, uint64_t seed, uint64_t matrix,
                        int64_t *positions, seft_error *error);

typedef enum { SEFT_ANYWHERE, SEFT_ACTIVE } seft_scope;

/* One matrix: its base, its delta, and the optimizer state of the delta's slots. */
typedef struct {
    int64_t out, in, base_count, delta_count;
    int64_t *base;       /* base_count */
    double *base_values; /* base_count */
    int64_t *delta;      /* delta_count, like the arrays below */
    double *delta_values, *m, *v;
    int64_t *age;
} seft_matrix_f64;

typedef struct {
    int64_t out, in, base_count, delta_count;
    int64_t *base;
    float *base_values;
    int64_t *delta;
    float *delta_values, *m, *v;
    int64_t *age;
} seft_matrix_f32;

/* The result of an event. The caller provides arrays of delta_count (dropped), out * in (grown) and
 * base_count + out * in (pruned) entries. */
typedef struct {
    int64_t *dropped, *grown, *pruned;
    int64_t dropped_count, grown_count, pruned_count;
} seft_event;

/* Makes the support, at most base_count + delta_count positions, and the effective weight on it; returns its size. */
int64_t seft_effective_f64(const seft_matrix_f64 *w, int64_t *support, double *weights);
int64_t seft_effective_f32(const seft_matrix_f32 *w, int64_t *support, float *weights);

/* Chooses the n positions that leave the delta. */
int seft_drop_f64(const int64_t *delta, const double *values, int64_t count, int64_t n, int64_t *dropped,
                  seft_error *error);
int seft_drop_f32(const int64_t *delta, const float *values, int64_t count, int64_t n, int64_t *dropped,
                  seft_error *error);

/* Chooses the positions that enter the delta, at most n; `count` gets their number. gradient is (out, in). */
int seft_grow_f64(const seft_matrix_f64 *w, const int64_t *dropped, int64_t dropped_count, const double *gradient,
                  int64_t n, seft_scope scope, int64_t *grown, int64_t *count, seft_error *error);
int seft_grow_f32(const seft_matrix_f32 *w, const int64_t *dropped, int64_t dropped_count, const float *gradient,
                  int64_t n, seft_scope scope, int64_t *grown, int64_t *count, seft_error *error);

/* Chooses the positions to prune for a support of at most `budget`, none of them exempt; `count` gets their number. */
int seft_adapt_f64(const seft_matrix_f64 *w, const int64_t *exempt, int64_t exempt_count, const double *gradient,
                   int64_t budget, int64_t *pruned, int64_t *count, seft_error *error);
int seft_adapt_f32(const seft_matrix_f32 *w, const int64_t *exempt, int64_t exempt_count, const float *gradient,
                   int64_t budget, int64_t *pruned, int64_t *count, seft_error *error);

/* Runs the event of the preset `sensitivity`. `after` has room for base_count weights and for the larger of delta_count
 * and min(delta_budget, out * in) slots. If the event is refused, the contents of `after` and `event` are undefined. */
int seft_evolve_f64(const seft_matrix_f64 *before, const double *gradient, int64_t n_drop, int64_t delta_budget,
                    int64_t budget, seft_scope scope, int adapts, seft_matrix_f64 *after, seft_event *event,
                    seft_error *error);
int seft_evolve_f32(const seft_matrix_f32 *before, const float *gradient, int64_t n_drop, int64_t delta_budget,
                    int64_t budget, seft_scope scope, int adapts, seft_matrix_f32 *after, seft_event *event,
                    seft_error *error);

/* ------------------------------------------------------------------------------------------ chapter 9: optimizer.c */

typedef struct {
    double beta1, beta2, eps, weight_decay;
} seft_adamw;

extern const seft_adamw seft_adamw_defaults;

/* Takes one step, in place. */
void seft_adamw_step_f64(const seft_adamw *adamw, double lr, int64_t count, const double *gradient, double *values,
                         double *m, double *v, int64_t *age);
void seft_adamw_step_f32(const seft_adamw *adamw, double lr, int64_t count, const float *gradient, float *values,
                         float *m, float *v, int64_t *age);
double seft_clip_factor(double norm, double max_norm);

#ifdef __cplusplus
}
#endif
#endif
