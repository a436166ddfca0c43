// How long a dense problem takes with its rows in tasks of 128 or 192, or shared out in tiles of
// 64: what the choice of a configuration goes by.
#pragma once

#include "bsk/attention.h"

namespace bsk::sm90::attention_forward {

// Tiles of so many query rows of a head; of 64, of all heads.
int64_t q_tiles(const AttentionProblem& problem, int64_t rows);
int64_t row_tiles(const AttentionProblem& problem);

// How tiles of 64 rows are shared out (tile/scheduler.cuh): so many to a CTA, and of those so many
// from the back.
struct RowShares {
  int64_t row_tiles = 0, ctas = 0;
};
RowShares share_rows(const AttentionProblem& problem, int multiprocessors);
int64_t from_back(const AttentionProblem& problem, int64_t row_tiles);

// Times in units of what one of two consumers takes for a tile of 64 rows by 128 keys, measured
// (docs/lab_notes). Of tasks for `consumers` each:
double time_of_tasks(const AttentionProblem& problem, int consumers, int multiprocessors);
// Of shared rows, on the CTA that has most to do.
double time_of_shares(const AttentionProblem& problem, int multiprocessors);

// Whether persistent CTAs get nearly equal shares of a few rounds of tasks of so many rows, which
// are numbered for so many heads together, the longest first (tile/scheduler.cuh).
bool evens_out(const AttentionProblem& problem, int64_t rows, int64_t heads_together, int64_t ctas);

}  // namespace bsk::sm90::attention_forward
