// Encoding and decoding rates of one thread: tokenizer_bench [TEXT_FILE [TOKENIZER_FOLDER...]].
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <numeric>
#include <string>
#include <vector>

#include "base/file.h"
#include "formats/tokenizer.h"

namespace planish {
namespace {

double ThreadSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Processor time, so that other work on the machine counts little. The first run has cold caches.
template <typename Body>
void Measure(const char* what, double megabytes, const Body& body) {
  double first = 0, best = 1e9;
  for (int run = 0; run < 10; ++run) {
    const double start = ThreadSeconds();
    body();
    const double seconds = ThreadSeconds() - start;
    if (run == 0) first = seconds;
    best = std::min(best, seconds);
  }
  fmt::print("{}: first {:.1f} MB/s, best {:.1f} MB/s\n", what, megabytes / first, megabytes / best);
}

int Run(const std::string& text_path, const std::string& folder) {
  const auto text = ReadTextFile(text_path);
  const auto tokenizer = Tokenizer::Load(folder);
  for (const Status& status :
       {text.ok() ? Status() : text.error(), tokenizer.ok() ? Status() : tokenizer.error()}) {
    if (status.ok()) continue;
    fmt::print(stderr, "{}\n", status.error().message);
    return 1;
  }
  const double megabytes = static_cast<double>(text->size()) / 1e6;
  std::vector<int32_t> ids;
  Status failed;
  Measure("encode", megabytes, [&] {
    auto result = (*tokenizer)->Encode(*text);
    if (result.ok())
      ids = *std::move(result);
    else
      failed = result.error();
  });
  if (!failed.ok()) {
    fmt::print(stderr, "{}\n", failed.error().message);
    return 1;
  }
  std::string decoded;
  Measure("decode", megabytes, [&] { decoded = (*tokenizer)->Decode(ids); });
  fmt::print("{} bytes, {} ids, sum {}, decoded {}\n", text->size(), ids.size(),
             std::accumulate(ids.begin(), ids.end(), int64_t{0}), decoded == *text ? "equal" : "different");
  return 0;
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) {
  const std::string shared = PLANISH_SHARED_DIR, tiny = shared + "/models/tiny/tokenizers/";
  // Byte-level BPE; SentencePiece BPE and unigram; BPE on characters, Unigram and WordPiece of
  // tokenizer.json.
  std::vector<std::string> folders = {shared + "/models/demo", tiny + "sp_bpe",  tiny + "sp_unigram",
                                      tiny + "bpe_llama2",     tiny + "unigram", tiny + "wordpiece"};
  if (argc > 2) folders.assign(argv + 2, argv + argc);
  int failed = 0;
  for (const std::string& folder : folders) {
    fmt::print("{}\n", folder);
    failed |= planish::Run(argc > 1 ? argv[1] : shared + "/data/text/wikitext2-raw-test.txt", folder);
  }
  return failed;
}
