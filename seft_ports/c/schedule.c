/* Chapter 8: budgets, steps of events, how much they drop, and the learning rate; all in binary64. */
#include "seft.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

/* DLT-002, numel: the product from left to right (SEL-006) */
int seft_budget(double density, int64_t out, int64_t in, int64_t stored, int64_t *budget, seft_error *error)
{
    if (!seft_count_of(density * (double)out * (double)in, budget, error))
        return 0;
    if (*budget > stored)
        *budget = stored;
    return 1;
}

/* SCH-001 */
double seft_drop_fraction(double drop_fraction, int64_t step, int64_t last)
{
    return 0.5 * drop_fraction * (1.0 + cos(PI * (double)step / (double)last));
}

/* SCH-002 */
int seft_drop_count(double fraction, int64_t slots, int64_t *count, seft_error *error)
{
    return seft_count_of(fraction * (double)slots, count, error);
}

/* SCH-003, with E = T */
int seft_is_event(int64_t step, int64_t steps, int64_t evolve_every)
{
    return step % evolve_every == 0 && step < steps;
}

/* SCH-004 */
double seft_learning_rate(seft_rate kind, double lr, int64_t step, int64_t steps, int64_t warmup)
{
    double u;
    if (step <= warmup)
        return lr * (double)step / (double)warmup;
    u = (double)(step - warmup) / (double)(steps - warmup > 1 ? steps - warmup : 1);
    if (kind == SEFT_LINEAR)
        return lr * (1.0 - u);
    return kind == SEFT_COSINE ? 0.5 * lr * (1.0 + cos(PI * u)) : lr;
}
