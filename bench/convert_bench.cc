// MB/s of input of conversions to GGUF, beside a copy in memory and a plain write to the same folder:
//   convert_bench [MODEL [FOLDER [TYPE...]]]
// A type with a plus is searched under an importance of its columns: q4_k+. The model's files are read once
// before, so that they come from the page cache. On a machine that others use too, look at the input for a
// second of processor time.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/random.h"
#include "export/gguf_export.h"
#include "model/model.h"
#include "tensor/buffer.h"

namespace planish {
namespace {

double Seconds(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void Fail(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "{}\n", status.error().message);
  std::exit(1);
}

// Every thread copies its share of 256 MB; bytes copied a second.
double CopyRate(const Context& context) {
  constexpr int64_t kShare = 16 << 20, kShares = 16;
  Buffer from(kShare * kShares), to(kShare * kShares);
  std::memset(from.data(), 1, from.size());
  double best = 0;
  for (int round = 0; round < 4; ++round) {
    const double seconds = Seconds([&] {
      context.pool->ParallelFor(
          kShares, [&](int64_t i) { std::memcpy(to.data() + i * kShare, from.data() + i * kShare, kShare); });
    });
    best = std::max(best, static_cast<double>(from.size()) / seconds);
  }
  return best;
}

// The size of a Q8_0 output of the model, appended and synced.
double WriteRate(const std::string& path, int64_t size) {
  Buffer buffer(8 << 20);
  std::memset(buffer.data(), 1, buffer.size());
  const double seconds = Seconds([&] {
    auto file = AtomicFile::Create(path);
    Fail(file.ok() ? Status() : file.error());
    for (int64_t done = 0; done < size; done += static_cast<int64_t>(buffer.size())) {
      Fail(file->Append(buffer.bytes()));
    }
    Fail(file->Commit());
  });
  Fail(RemoveTree(path));
  return static_cast<double>(size) / seconds;
}

// Bytes of the weights, read once.
int64_t Touch(const Model& model) {
  int64_t bytes = 0;
  volatile unsigned sum = 0;
  for (const TensorInfo* info : model.checkpoint.tensors()) {
    const auto view = model.checkpoint.Get(info->name);
    Fail(view.ok() ? Status() : view.error());
    for (size_t i = 0; i < view->bytes().size(); i += 4096) {
      sum = sum + static_cast<unsigned>(view->bytes()[i]);
    }
    bytes += static_cast<int64_t>(view->bytes().size());
  }
  return bytes;
}

// Of every linear in the layers: exp of normal numbers.
void AddImportance(const Model& model, GgufExport& options) {
  for (const LinearSlot& slot : model.program.linears) {
    if (!slot.in_layer || slot.keep) continue;
    auto& importance = options.importance[slot.weight];
    importance.resize(static_cast<size_t>(slot.in));
    for (size_t j = 0; j < importance.size(); ++j) {
      importance[j] = std::exp(static_cast<float>(Random(1).Normal(j)));
    }
  }
}

void Run(const std::string& path, const std::string& folder, const std::vector<std::string>& types) {
  ThreadPool pool;
  Context context;
  context.pool = &pool;
  context.isa = BestIsa();
  const auto model = LoadModel(path);
  Fail(model.ok() ? Status() : model.error());
  const auto bytes = static_cast<double>(Touch(*model));
  fmt::print("{}: {}, {} threads, {}\n", path, FormatBytes(bytes), pool.NumThreads(), IsaName(context.isa));
  const std::string output = JoinPath(folder, "convert_bench.out");
  for (const std::string& name : types) {
    GgufExport options;
    const bool weighted = name.ends_with('+');
    const auto type = ParseGgufType(name.substr(0, name.size() - weighted));
    Fail(type ? Status() : InputError(name + ": no block type"));
    options.type = *type;
    if (weighted) AddImportance(*model, options);
    double seconds = 1e9, processor = 1e9;
    for (int round = 0; round < 3; ++round) {
      const double before = ProcessorSeconds();
      seconds = std::min(seconds, Seconds([&] {
                           const auto done = ExportGguf(context, *model, options, output);
                           Fail(done.ok() ? Status() : done.error());
                         }));
      processor = std::min(processor, ProcessorSeconds() - before);
      Fail(RemoveTree(output));
    }
    fmt::print(
        "{:<8} {:>6.0f} MB/s of input, {:>5.0f} MB a second of processor time   (copy in memory {:.0f} MB/s, "
        "write and sync {:.0f} MB/s)\n",
        name, bytes / seconds / 1e6, bytes / processor / 1e6, CopyRate(context) / 1e6,
        WriteRate(output, static_cast<int64_t>(bytes * 0.53)) / 1e6);
  }
}

}  // namespace
}  // namespace planish

int main(int argc, char** argv) {
  std::vector<std::string> types(argv + std::min(argc, 3), argv + argc);
  if (types.empty()) {
    types = {"q8_0", "q6_k",   "q5_k",   "q4_k", "q4_k+", "q3_k",
             "q2_k", "iq4_xs", "iq4_nl", "q4_0", "bf16",  "f16"};
  }
  planish::Run(argc > 1 ? argv[1] : PLANISH_SHARED_DIR "/models/ref", argc > 2 ? argv[2] : "/tmp", types);
  return 0;
}
