/* A compensated sum (Neumaier): its error does not grow with the number of terms, and it is exact on integers (KRN-006,
 * KRN-007, NUM-002, NUM-003). The result is sum + lost. */
#ifndef SEFT_SUM_H
#define SEFT_SUM_H

typedef struct {
    double sum, lost;
} seft_sum;

static void seft_add(seft_sum *s, double term)
{
    double sum = s->sum + term, size = s->sum < 0 ? -s->sum : s->sum;
    s->lost += size >= (term < 0 ? -term : term) ? (s->sum - sum) + term : (term - sum) + s->sum;
    s->sum = sum;
}

#endif
