// Names in messages: which existing names are closest to one that does not exist, and long text cut short.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace planish {

// Levenshtein distance in bytes: the least number of insertions, deletions and substitutions that
// turn `a` into `b`. Time |a| |b|.
int64_t EditDistance(std::string_view a, std::string_view b);

// Up to `max_count` candidates at a distance of at most a third of the name's length (but at least 2),
// nearest first, ties in the candidates' order.
std::vector<std::string> NearestNames(std::string_view name, const std::vector<std::string>& candidates,
                                      int max_count = 3);

// "did you mean 'a', 'b' or 'c'?", or "" when nothing is near.
std::string DidYouMean(std::string_view name, const std::vector<std::string>& candidates, int max_count = 3);

// The text, or its first bytes (at most `max_bytes`, cut between UTF-8 characters) and "...".
std::string Abbreviate(std::string_view text, size_t max_bytes = 120);

}  // namespace planish
