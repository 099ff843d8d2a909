/* The measured job as a C program: what job.py does, with an array of doubles.

   usage: job MEGABYTES SHARE */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const double PAUSE_S = 0.01, STOOD_STILL_S = 0.02, LONGEST_DUE_S = 0.1;

static uint64_t state = 88172645463325252u;

/* xorshift64; a double in [0, 1) has 52 random bits, as Python's has 53. */
static double draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 12) / (double)(UINT64_C(1) << 52);
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void change_on(double *values, size_t elements, double share) {
    const struct timespec pause = {0, (long)(PAUSE_S * 1e9)};
    size_t at = 0;
    double due = 0, told = 0, began = now_s(), before = began;
    for (;;) {
        nanosleep(&pause, NULL);
        double now = now_s(), gap = now - before;
        before = now;
        if (gap > STOOD_STILL_S)
            printf("stood still %.1f\n", gap * 1e3);
        if (now - began > told) {
            told = (double)(long)(now - began) + 1;
            printf("alive %.0f\n", told);
        }
        due += (gap < LONGEST_DUE_S ? gap : LONGEST_DUE_S) * share * (double)elements;
        for (; due >= 1; due--) {
            values[at] = draw();
            at = (at + 1) % elements;
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: job MEGABYTES SHARE\n");
        return 64;
    }
    size_t elements = (size_t)atol(argv[1]) << 17;
    double *values = malloc(elements * sizeof *values);
    if (elements == 0 || values == NULL) {
        fprintf(stderr, "error: cannot allocate %s MB\n", argv[1]);
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < elements; i++)
        values[i] = draw();
    puts("ready");
    change_on(values, elements, atof(argv[2]));
}
