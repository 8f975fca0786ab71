/* probes.h - linear probes in closed form, from inner products of rows alone.
 *
 * Rows x_i [D] have labels 0 or 1, and K = X X' [n,n] all their inner products. The direction of
 * each probe here is a sum of the m rows that it is fitted to, w = X' a: the score of any row is
 * x_i . w, a sum of inner products, and to fit is to find a [m] and b. No matrix is larger than
 * n x n, whatever D is. A row is taken for a 1 where score + b > 0. (Hastie, Tibshirani, Friedman
 * 2009, "The Elements of Statistical Learning", 3.4.1, 4.3 and 18.3.5.) */
#ifndef PROBES_H
#define PROBES_H

#include "lab.h"

typedef enum { MEAN_DIFFERENCE, RIDGE, LDA, N_PROBES } ProbeKind;

typedef struct {
    int           n, D;
    const double *K;            /* [n,n] */
    const int    *label;        /* [n] */
} Rows;

typedef struct {
    double *a, *score;          /* [n] a is 0 for rows it was not fitted to; score is of all rows */
    double  b, strength;        /* strength: lambda of ridge, the shrinkage of LDA */
    double  step;               /* mean score of the rows with 1 that it saw, less that of the 0 */
} Probe;

/* x <- P x: each number less the mean of its class    x [m], `step` apart, class [m]: 0 or 1 */
static inline void centre(double *x, size_t step, int m, const int *class)
{
    double sum[2] = {0, 0}, count[2] = {0, 0};
    for (int i = 0; i < m; i++) sum[class[i]] += x[i * step], count[class[i]]++;
    for (int i = 0; i < m; i++) x[i * step] -= sum[class[i]] / count[class[i]];
}

/* C = P K P [m,m]: the inner products of the rows less their class's mean; to be freed. */
static inline double *centred(const double *K, int m, const int *class)
{
    double *C = must(malloc((size_t)m * m * sizeof *C));
    memcpy(C, K, (size_t)m * m * sizeof *C);
    for (int i = 0; i < m; i++) centre(C + (size_t)i * m, 1, m, class);
    for (int i = 0; i < m; i++) centre(C + i, m, m, class);
    return C;
}

static inline double trace(const double *A, int m)
{
    double sum = 0;
    for (int i = 0; i < m; i++) sum += A[(size_t)i * m + i];
    return sum;
}

static inline double square(const double *A, int m)     /* the sum of all squares */
{
    double sum = 0;
    for (size_t i = 0; i < (size_t)m * m; i++) sum += A[i] * A[i];
    return sum;
}

/* (A^-1)_ii = sum over k of (U^-1)_ik^2    U [m,m] of cholesky(), room v [m] */
static inline double inverse_at(const double *U, int m, int i, double *v)
{
    double sum = 0;
    for (int k = i; k < m; k++) v[k] = k == i;          /* v U = row i of I */
    for (int k = i; k < m; k++) {
        const double *u = U + (size_t)k * m;
        v[k] /= u[k];
        for (int j = k + 1; j < m; j++) v[j] -= v[k] * u[j];
        sum += v[k] * v[k];
    }
    return sum;
}

/* a = (K + lambda I)^-1 y, K and y less their means    K [m,m], label, -> a [m]; returns lambda
 *
 * Ridge regression on y = 1 and -1. lambda is the one of 7 powers of 10, times the mean squared
 * length of a row, whose squared error is least when each row is left out once. That needs no
 * refitting: what the fit leaves of row i, divided by 1 - (its own part in its prediction), is
 * lambda a_i / (lambda (A^-1)_ii - 1/m), A = K + lambda I. */
static inline double fit_ridge(const double *K, const int *label, int m, double *a)
{
    int    *one = must(calloc(m, sizeof *one));         /* all in one class */
    double *C = centred(K, m, one), *U = must(malloc((m + 2) * (size_t)m * sizeof *U));
    double *x = U + (size_t)m * m, *room = x + m;
    double  length = trace(C, m) / m, best = INFINITY, chosen = 0;
    for (int power = -3; power <= 3; power++) {
        double lambda = (length > 0 ? length : 1) * pow(10, power), error = 0;
        memcpy(U, C, (size_t)m * m * sizeof *U);
        for (int i = 0; i < m; i++) U[(size_t)i * m + i] += lambda, x[i] = label[i] ? 1 : -1;
        centre(x, 1, m, one);
        if (cholesky(U, m) < 0) refuse(1, "rows of numbers that are too large or not finite");
        cholesky_solve(U, m, x);
        for (int i = 0; i < m; i++) {
            double e = lambda * x[i] / (lambda * inverse_at(U, m, i, room) - 1. / m);
            error += e * e;
        }
        if (error < best) best = error, chosen = lambda, memcpy(a, x, m * sizeof *a);
    }
    free(C), free(U), free(one);
    return chosen;
}

/* How far to shrink a covariance S = Z'Z / m towards a multiple of I: (1-s) S + s tr(S)/D I. Of
 * Ledoit and Wolf 2004, "A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices",
 * from C = Z Z' [m,m] alone: |Z'Z| = |C|, and its diagonal has the squared lengths of rows. */
static inline double ledoit_wolf(const double *C, int m, int D)
{
    double fourth = 0, tr = trace(C, m) / m, squares = square(C, m) / m / m;
    for (int i = 0; i < m; i++) fourth += pow(C[(size_t)i * m + i], 2) / m;
    double beta = (fourth - squares) / m, delta = squares - tr * tr / D;
    return !(delta > 0) || beta > delta ? 1 : beta > 0 ? beta / delta : 0;
}

/* w = Sigma^-1 (mean of rows with 1 - mean of those with 0)    K [m,m], label, -> a [m]; returns s
 *
 * Linear discriminant analysis. Sigma is the covariance S = Z'Z / m of the rows less the means of
 * their classes, Z = P X, shrunken with one s for both classes. With p = (1-s)/m and q = s tr(S)/D,
 * Sigma = p Z'Z + q I, and w = (X'd - Z' (ZZ' + q/p I)^-1 Z X'd) / q (Woodbury), d = 1/m_1 or
 * -1/m_0. It is scikit-learn's solver="lsqr" with that shrinkage; its "auto" is another
 * one, an s for each class, of columns divided by their deviations. */
static inline double fit_lda(const double *K, const int *label, int m, int D, double *a)
{
    double *C = centred(K, m, label), *x = must(calloc(m, sizeof *x)), count[2] = {0, 0};
    double  s = ledoit_wolf(C, m, D), p = (1 - s) / m, q = s * trace(C, m) / m / D;
    for (int i = 0; i < m; i++) count[label[i]]++;
    for (int i = 0; i < m; i++) a[i] = label[i] ? 1 / count[1] : -1 / count[0];
    if (s == 0) refuse(1, "too few rows for the covariance of a class");
    if (s < 1) {
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < m; j++) x[i] += K[(size_t)i * m + j] * a[j];
            C[(size_t)i * m + i] += q / p;
        }
        centre(x, 1, m, label);
        if (cholesky(C, m) < 0) refuse(1, "rows of numbers that are too large or not finite");
        cholesky_solve(C, m, x);
    }
    if (!(q > 0)) q = 1;                                /* each class is a point */
    for (int i = 0; i < m; i++) a[i] = (a[i] - x[i]) / q;
    free(C), free(x);
    return s;
}

/* b and step of a probe, from its scores of the rows that are not of that fold. */
static inline void set_threshold(Probe *probe, const Rows *r, ProbeKind kind, const int *fold,
                                 int without)
{
    double mean[2] = {0, 0}, count[2] = {0, 0};
    for (int i = 0; i < r->n; i++)
        if (fold[i] != without) mean[r->label[i]] += probe->score[i], count[r->label[i]]++;
    double all = (mean[0] + mean[1]) / (count[0] + count[1]);
    for (int k = 0; k < 2; k++) mean[k] /= count[k];
    probe->step = mean[1] - mean[0];
    probe->b = kind == RIDGE ? (count[1] - count[0]) / (count[1] + count[0]) - all
                             : -(mean[0] + mean[1]) / 2;
    if (kind == LDA) probe->b += log(count[1] / count[0]);
}

static inline void free_probe(Probe *probe) { free(probe->a), free(probe->score); }

/* The probe of the rows whose fold [n] is another (without -1: of all); both labels are there. */
static inline Probe fit(ProbeKind kind, const Rows *r, const int *fold, int without)
{
    int     n = r->n, m = 0, *row = must(malloc(2 * n * sizeof *row)), *label = row + n;
    Probe   probe = {.a = must(calloc(n, sizeof *probe.a))};
    probe.score = must(calloc(n, sizeof *probe.score));
    for (int i = 0; i < n; i++)
        if (fold[i] != without) row[m] = i, label[m++] = r->label[i];
    double *K = must(malloc((m + 1) * (size_t)m * sizeof *K)), *a = K + (size_t)m * m, count = 0;
    for (int i = 0; i < m; i++) {
        count += label[i];
        for (int j = 0; j < m; j++) K[(size_t)i * m + j] = r->K[(size_t)row[i] * n + row[j]];
    }
    for (int i = 0; i < m; i++) a[i] = label[i] ? 1 / count : -1 / (m - count);
    if (kind == RIDGE) probe.strength = fit_ridge(K, label, m, a);
    if (kind == LDA) probe.strength = fit_lda(K, label, m, r->D, a);
    for (int i = 0; i < m; i++) probe.a[row[i]] = a[i];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < m; j++) probe.score[i] += r->K[(size_t)i * n + row[j]] * a[j];
    set_threshold(&probe, r, kind, fold, without);
    free(row), free(K);
    return probe;
}

/* Of the rows of a fold: the mean share of each class that is taken for what it is; and
 * the share of pairs, one row of each class, in which the score of the 1 is higher. */
static inline double balanced_accuracy(const Probe *p, const Rows *r, const int *fold, int which)
{
    double right[2] = {0, 0}, count[2] = {0, 0};
    for (int i = 0; i < r->n; i++) {
        if (fold[i] != which) continue;
        count[r->label[i]]++;
        right[r->label[i]] += (p->score[i] + p->b > 0) == r->label[i];
    }
    return (right[0] / count[0] + right[1] / count[1]) / 2;
}

static inline double auroc(const Probe *p, const Rows *r, const int *fold, int which)
{
    double pairs = 0, higher = 0;
    for (int i = 0; i < r->n; i++)
        for (int j = 0; j < r->n; j++) {
            if (fold[i] != which || fold[j] != which || !r->label[i] || r->label[j]) continue;
            pairs++;
            higher += p->score[i] > p->score[j] ? 1 : p->score[i] == p->score[j] ? .5 : 0;
        }
    return higher / pairs;
}

#endif
