/* Chapter 9: AdamW with an age per slot. The file includes itself for double and for float. */
#ifndef REAL

#include "seft.h"

#include <math.h>

/* OPT-003 */
const seft_adamw seft_adamw_defaults = {0.9, 0.999, 1e-8, 0.0};

/* OPT-004 */
double seft_clip_factor(double norm, double max_norm)
{
    double factor = max_norm / (norm + 1e-6);
    return max_norm == 0 || factor > 1.0 ? 1.0 : factor;
}

#define REAL double
#define OF(name) name##_f64
#define ROOT sqrt
#include "optimizer.c"
#undef REAL
#undef OF
#undef ROOT
#define REAL float
#define OF(name) name##_f32
#define ROOT sqrtf
#include "optimizer.c"

#else

/* OPT-001 */
void OF(seft_adamw_step)(const seft_adamw *adamw, double lr, int64_t count, const REAL *gradient, REAL *values, REAL *m,
                         REAL *v, int64_t *age)
{
    const REAL beta1 = (REAL)adamw->beta1, rest1 = (REAL)(1.0 - adamw->beta1);
    const REAL beta2 = (REAL)adamw->beta2, rest2 = (REAL)(1.0 - adamw->beta2);
    const REAL eps = (REAL)adamw->eps, decay = (REAL)(1.0 - lr * adamw->weight_decay);
    int64_t s;
    for (s = 0; s < count; s++) {
        REAL rate, c2;
        age[s]++;
        /* OPT-002, OPT-005: bias correction uses the age of the slot; OPT-009: pow is accurate enough */
        rate = (REAL)(lr / (1.0 - pow(adamw->beta1, (double)age[s])));
        c2 = (REAL)sqrt(1.0 - pow(adamw->beta2, (double)age[s]));
        values[s] = values[s] * decay;
        m[s] = beta1 * m[s] + rest1 * gradient[s];
        v[s] = beta2 * v[s] + rest2 * (gradient[s] * gradient[s]);
        values[s] = values[s] - rate * (m[s] / (ROOT(v[s]) / c2 + eps));
    }
}

#endif
