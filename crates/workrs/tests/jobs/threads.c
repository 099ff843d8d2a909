/* Four threads that compute on from each other's results, round by round. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { COUNT = 4 };

static unsigned long before[COUNT] = {1, 2, 3, 4}, after[COUNT];
static pthread_barrier_t barrier;
static int steps;
static unsigned pause_us;
static FILE *lines;

static void *work(void *number) {
    long me = (long)number;
    for (int n = 1; n <= steps; n++) {
        unsigned long mine = before[me] ^ (before[(me + 1) % COUNT] << 7);
        for (int i = 0; i < 100000; i++)
            mine = mine * 6364136223846793005UL + 1442695040888963407UL + (unsigned long)n;
        after[me] = mine;
        if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) {
            unsigned long all = 0;
            for (int i = 0; i < COUNT; i++)
                all = all * 31 + (before[i] = after[i]);
            printf("%d %016lx\n", n, all);
            fflush(stdout);
            fprintf(lines, "%d\n", n);
            fflush(lines);
        }
        pthread_barrier_wait(&barrier);
        usleep(pause_us);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[COUNT];
    steps = atoi(getenv("STEPS"));
    pause_us = (unsigned)(atof(getenv("PAUSE")) * 1e6);
    lines = fopen("lines", "w");
    pthread_barrier_init(&barrier, NULL, COUNT);
    for (long i = 0; i < COUNT; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < COUNT; i++)
        pthread_join(threads[i], NULL);
    puts("joined");
    return 0;
}
