#include "src/cuda/sm90/attention_forward/task_times.h"

#include <algorithm>
#include <vector>

#include "src/cuda/sm90/problem.h"

namespace bsk::sm90::attention_forward {
namespace {

constexpr int kKeys = 128;  // of a tile

// By how many consumers are at the tile, as measured; three gain where keys are many.
double time_of_tile(const AttentionProblem& problem, int64_t consumers) {
  constexpr int64_t kMany = 2048;
  return consumers == 1 ? 1.75 : consumers == 2 ? 2.5 : problem.kv_len() <= kMany ? 2.8 : 2.65;
}
// Of two that have a CTA of their own, take turns and issue QK ahead.
constexpr double kTimeOfPair = 1.9;
// Between a CTA's tasks.
constexpr double kSeam = 1.0;
// Tiles of a task that a consumer without rows in the one before begins with earlier: the ring
// holds no more.
constexpr int64_t kAhead = 4;
// What tasks of different lengths lose by not evening out.
constexpr double kUneven = 1.05;

// Tiles of keys that the rows of [first, end) see together.
int64_t key_tiles(const AttentionProblem& problem, const tile::Visibility& visibility,
                  int64_t first, int64_t end) {
  const int64_t last = std::min(end, problem.q_len()) - 1;
  const int64_t begin_key = std::max<int64_t>(0, first + visibility.first);
  const int64_t end_key = std::min<int64_t>(problem.kv_len(), last + visibility.end);
  if (end_key <= begin_key) return 0;
  return (end_key + kKeys - 1) / kKeys - begin_key / kKeys;
}

}  // namespace

int64_t q_tiles(const AttentionProblem& problem, int64_t rows) {
  return (problem.q_len() + rows - 1) / rows;
}

int64_t row_tiles(const AttentionProblem& problem) {
  return q_tiles(problem, 64) * problem.q_heads() * problem.batch();
}

RowShares share_rows(const AttentionProblem& problem, int multiprocessors) {
  const int64_t tiles = row_tiles(problem);
  RowShares shares;
  if (tiles == 0) return shares;
  shares.row_tiles = (tiles + multiprocessors - 1) / multiprocessors;
  shares.ctas = (tiles + shares.row_tiles - 1) / shares.row_tiles;
  return shares;
}

int64_t from_back(const AttentionProblem& problem, int64_t row_tiles) {
  return problem.causal != Causal::kNone ? row_tiles / 2 : 0;
}

double time_of_tasks(const AttentionProblem& problem, int consumers, int multiprocessors) {
  const int64_t rows = 64 * consumers, tiles = q_tiles(problem, rows);
  const int64_t heads = problem.q_heads() * problem.batch();
  const tile::Visibility visibility = visibility_of(problem);
  int64_t longest = 0, sum = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t keys = key_tiles(problem, visibility, rows * i, rows * (i + 1));
    longest = std::max(longest, keys);
    sum += keys;
  }
  const double time = consumers == 2 ? kTimeOfPair : time_of_tile(problem, consumers);
  const int64_t rounds = (tiles * heads + multiprocessors - 1) / multiprocessors;
  const double seams = kSeam * static_cast<double>(rounds);
  if (longest * tiles == sum) return time * static_cast<double>(rounds * longest) + seams;
  const double mean = static_cast<double>(sum * heads) / multiprocessors;
  return time * std::max(static_cast<double>(longest), kUneven * mean) + seams;
}

double time_of_shares(const AttentionProblem& problem, int multiprocessors) {
  const RowShares shares = share_rows(problem, multiprocessors);
  const int64_t all = row_tiles(problem), of_head = q_tiles(problem, 64);
  const tile::Visibility visibility = visibility_of(problem);
  const int64_t back = from_back(problem, shares.row_tiles), front = shares.row_tiles - back;
  const int64_t end_of_front = std::min(shares.ctas * front, all);
  const auto time_of_piece = [&](int64_t first, int64_t end) {
    double time = 0.0;
    int64_t behind = 0;  // tiles of a task in which some consumer has no rows
    while (first < end) {
      const int64_t in_head = first % of_head;
      const int64_t count = std::min({int64_t{3}, of_head - in_head, end - first});
      const int64_t keys = key_tiles(problem, visibility, 64 * in_head, 64 * (in_head + count));
      time += time_of_tile(problem, count) * static_cast<double>(keys) + kSeam;
      time -= time_of_tile(problem, 1) * static_cast<double>(std::min({kAhead, behind, keys}));
      behind = count < 3 ? keys : 0;
      first += count;
    }
    return time;
  };
  // A few CTAs stand for all: they differ by where in a head they begin.
  constexpr int64_t kSamples = 16, kStep = 37;
  double most = 0.0;
  for (int64_t sample = 0; sample < std::min(kSamples, shares.ctas); ++sample) {
    const int64_t cta = sample * kStep % shares.ctas;
    const int64_t first = cta * front, end = all - cta * back;
    most = std::max(most, time_of_piece(first, std::min(first + front, end_of_front)) +
                              time_of_piece(std::max(end - back, end_of_front), end));
  }
  return most;
}

bool evens_out(const AttentionProblem& problem, int64_t rows, int64_t heads_together,
               int64_t ctas) {
  // With more rounds dealing tasks out evens out as well, and there are many to go through.
  constexpr int64_t kMostRounds = 4;
  constexpr double kNearly = 1.04;
  const int64_t tiles = q_tiles(problem, rows), heads = problem.q_heads() * problem.batch();
  if (tiles * heads > kMostRounds * ctas) return false;
  const tile::Visibility visibility = visibility_of(problem);
  std::vector<double> load(static_cast<size_t>(ctas), 0.0);
  double sum = 0.0;
  int64_t task = 0;
  int64_t group = heads % heads_together > 0 ? heads % heads_together : heads_together;
  for (int64_t head = 0; head < heads; head += group, group = heads_together) {
    for (int64_t i = tiles - 1; i >= 0; --i) {
      const double time =
          kSeam + static_cast<double>(key_tiles(problem, visibility, rows * i, rows * (i + 1)));
      for (int64_t h = 0; h < group; ++h, ++task) {
        const int64_t round = task / ctas, place = task % ctas;
        load[static_cast<size_t>(round % 2 == 0 ? place : ctas - 1 - place)] += time;
        sum += time;
      }
    }
  }
  return *std::max_element(load.begin(), load.end()) * static_cast<double>(ctas) <= kNearly * sum;
}

}  // namespace bsk::sm90::attention_forward
