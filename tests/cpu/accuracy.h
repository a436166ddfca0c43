// How far a kernel's output may be from the oracle's: twice the error of a plain evaluation in the
// same precision (fp32, rounded to the output's dtype), plus one spacing. Infinities and NaN must
// sit exactly where the oracle has them.
#pragma once

#include <gtest/gtest.h>

#include "tests/cpu/attention_case.h"

namespace bsk {

struct FairError {  // of the plain evaluation against the oracle, largest over the tensor
  double out = 0.0;
  double lse = 0.0;
};

inline FairError fair_error(const CaseData& data, const Output& expected) {
  FairError error;
  const AttentionProblem& p = data.problem;
  HaloTensor rounded(p.out.dtype, {1, 1, 1, 1}, Placement::kTight);
  std::vector<float> row;
  for (int64_t b = 0; b < p.batch(); ++b) {
    for (int64_t h = 0; h < p.q_heads(); ++h) {
      for (int64_t i = 0; i < p.q_len(); ++i) {
        const double lse = data.plain_row<float>(b, h, i, &row);
        const float wanted =
            expected.lse[static_cast<size_t>((b * p.q_heads() + h) * p.q_len() + i)];
        if (std::isfinite(wanted)) error.lse = std::max(error.lse, std::fabs(lse - wanted));
        for (int64_t d = 0; d < p.v_head_dim(); ++d) {
          rounded.set(0, 0, 0, 0, row[static_cast<size_t>(d)]);
          error.out = std::max(error.out,
                               std::fabs(rounded.get(0, 0, 0, 0) - expected.out.get(b, h, i, d)));
        }
      }
    }
  }
  return error;
}

inline bool within(double got, double wanted, double tolerance) {
  if (std::isnan(wanted) || std::isnan(got)) return std::isnan(wanted) && std::isnan(got);
  if (std::isinf(wanted) || std::isinf(got)) return wanted == got;
  return std::fabs(got - wanted) <= tolerance;
}

// Counts every element, reports the first that is wrong.
inline void expect_close(const CaseData& data, const Output& got, const Output& expected,
                         const FairError& fair, const std::string& what) {
  const AttentionProblem& p = data.problem;
  int64_t wrong = 0;
  std::string first;
  const auto check = [&](const char* name, int64_t b, int64_t h, int64_t i, int64_t d, double x,
                         double wanted, double tolerance) {
    if (within(x, wanted, tolerance)) return;
    if (wrong++ > 0) return;
    std::ostringstream text;
    text << name << "[" << b << ", " << h << ", " << i << ", " << d << "] is " << x << ", expected "
         << wanted << " within " << tolerance;
    first = text.str();
  };
  for (int64_t b = 0; b < p.batch(); ++b) {
    for (int64_t h = 0; h < p.q_heads(); ++h) {
      for (int64_t i = 0; i < p.q_len(); ++i) {
        const auto row = static_cast<size_t>((b * p.q_heads() + h) * p.q_len() + i);
        const double lse = expected.lse[row];
        check("lse", b, h, i, 0, got.lse[row], lse,
              2 * fair.lse + spacing(DataType::kFloat32, std::isfinite(lse) ? lse : 0.0));
        for (int64_t d = 0; d < p.v_head_dim(); ++d) {
          const double wanted = expected.out.get(b, h, i, d);
          check("out", b, h, i, d, got.out.get(b, h, i, d), wanted,
                2 * fair.out + (std::isfinite(wanted) ? spacing(p.out.dtype, wanted) : 0.0));
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0) << what << ": " << first;
  EXPECT_TRUE(got.out.halo_untouched()) << what << " wrote outside its output";
}

}  // namespace bsk
