#include "runtime/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/cpu.h"
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace planish {

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

namespace {

// Reads 64 bytes at a time from each of `streams` equal parts; the sum keeps the loads alive.
uint64_t ReadStreams(const std::byte* data, int64_t bytes, int streams) {
  const int64_t part = bytes / streams / 64 * 64;
  uint64_t sums[8] = {};
  for (int64_t at = 0; at < part; at += 64) {
    for (int s = 0; s < streams; ++s) {
      uint64_t words[8];
      std::memcpy(words, data + s * part + at, sizeof(words));
      for (int i = 0; i < 8; ++i) sums[i] ^= words[i];
    }
  }
  uint64_t sum = 0;
  for (const uint64_t s : sums) sum ^= s;
  return sum;
}

std::span<std::byte> PartOf(Buffer& buffer, int member, int size) {
  const auto [begin, end] = Team::PartOf(static_cast<int64_t>(buffer.size()) / 64, member, size);
  return {buffer.data() + begin * 64, static_cast<size_t>((end - begin) * 64)};
}

#if defined(__x86_64__)

// `n` rounds of twelve independent instructions: enough to cover the latency of four cycles on three ports.
// Assembly, so that neither flags of this file nor the optimizer matter; 256-bit forms use registers below
// 16, which they share with older processors.
#define ON_12(op, a, b, reg)                                                                                \
  op " " a "," b ",%%" reg "0\n" op " " a "," b ",%%" reg "1\n" op " " a "," b ",%%" reg "2\n" op " " a     \
     "," b ",%%" reg "3\n" op " " a "," b ",%%" reg "4\n" op " " a "," b ",%%" reg "5\n" op " " a "," b     \
     ",%%" reg "6\n" op " " a "," b ",%%" reg "7\n" op " " a "," b ",%%" reg "8\n" op " " a "," b ",%%" reg \
     "9\n" op " " a "," b ",%%" reg "10\n" op " " a "," b ",%%" reg "11\n"
#define CLOBBERS                                                                                          \
  "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
      "xmm14", "xmm15"
#define SPIN_YMM(name, op)                                                                           \
  void name(int64_t n) {                                                                             \
    __asm__ volatile("vxorps %%ymm14,%%ymm14,%%ymm14\n vxorps %%ymm15,%%ymm15,%%ymm15\n 1:\n" ON_12( \
                         op, "%%ymm14", "%%ymm15", "ymm") "dec %0\n jnz 1b\n vzeroupper\n"           \
                     : "+r"(n)::CLOBBERS);                                                           \
  }
#define SPIN_ZMM(name, op)                                                                           \
  void name(int64_t n) {                                                                             \
    __asm__ volatile("vpxorq %%zmm14,%%zmm14,%%zmm14\n vpxorq %%zmm15,%%zmm15,%%zmm15\n 1:\n" ON_12( \
                         op, "%%zmm14", "%%zmm15", "zmm") "dec %0\n jnz 1b\n vzeroupper\n"           \
                     : "+r"(n)::CLOBBERS);                                                           \
  }
SPIN_YMM(SpinFma256, "vfmadd231ps")
SPIN_YMM(SpinMaddubs256, "vpmaddubsw")
SPIN_YMM(SpinVnni256, "%{vex%} vpdpbusd")
SPIN_ZMM(SpinFma512, "vfmadd231ps")
SPIN_ZMM(SpinMaddubs512, "vpmaddubsw")
SPIN_ZMM(SpinVnni512, "vpdpbusd")
SPIN_ZMM(SpinBf16, "vdpbf16ps")

#if defined(__linux__)
// Palette 1: eight tiles of 16 rows of 64 bytes.
struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// Four products in flight from four operand tiles.
#define SPIN_TILES(name, op)                                                                     \
  void name(int64_t n) {                                                                         \
    const TileConfig config;                                                                     \
    __asm__ volatile(                                                                            \
        "ldtilecfg %1\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n" \
        "tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7\n 1:\n" op        \
        " %%tmm6,%%tmm4,%%tmm0\n" op " %%tmm7,%%tmm4,%%tmm1\n" op " %%tmm6,%%tmm5,%%tmm2\n" op   \
        " %%tmm7,%%tmm5,%%tmm3\n dec %0\n jnz 1b\n tilerelease\n"                                \
        : "+r"(n)                                                                                \
        : "m"(config)                                                                            \
        : "cc", "memory");                                                                       \
  }
SPIN_TILES(SpinAmxInt8, "tdpbusd")
SPIN_TILES(SpinAmxBf16, "tdpbf16ps")

// Tiles have to be asked for once a process. False: not granted.
bool AskForTiles() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#endif

struct Spin {
  const char *instruction, *type;
  void (*run)(int64_t n);
  int64_t rounds;  // about a millisecond
  double macs;     // of a round
};

std::vector<Spin> Spins() {
  std::vector<Spin> spins;
  const auto add = [&](bool has, Spin spin) {
    if (has) spins.push_back(spin);
  };
  const bool avx2 = IsaSupported(Isa::kAvx2), avx512 = IsaSupported(Isa::kAvx512);
  constexpr int64_t kRounds = 500000;
  add(avx2, {"vfmadd 256", "fp32", SpinFma256, kRounds, 12 * 8});
  add(avx512, {"vfmadd 512", "fp32", SpinFma512, kRounds, 12 * 16});
  add(CpuHas(CpuFeature::kAvx512Bf16), {"vdpbf16ps 512", "bf16", SpinBf16, kRounds, 12 * 32});
  const bool tiles_bf16 = CpuHas(CpuFeature::kAmxBf16), tiles_int8 = CpuHas(CpuFeature::kAmxInt8);
#if defined(__linux__)
  const bool granted = (tiles_bf16 || tiles_int8) && AskForTiles();
  add(granted && tiles_bf16, {"tdpbf16ps", "bf16", SpinAmxBf16, kRounds / 16, 4 * 16 * 16 * 32});
#endif
  add(avx2, {"vpmaddubsw 256", "int8", SpinMaddubs256, kRounds, 12 * 32});
  add(CpuHas(CpuFeature::kAvxVnni), {"vpdpbusd 256", "int8", SpinVnni256, kRounds, 12 * 32});
  add(avx512, {"vpmaddubsw 512", "int8", SpinMaddubs512, kRounds, 12 * 64});
  add(CpuHas(CpuFeature::kAvx512Vnni), {"vpdpbusd 512", "int8", SpinVnni512, kRounds, 12 * 64});
#if defined(__linux__)
  add(granted && tiles_int8, {"tdpbusd", "int8", SpinAmxInt8, kRounds / 16, 4 * 16 * 16 * 64});
#endif
  return spins;
}

#endif

}  // namespace

BandwidthMeter::BandwidthMeter(Team& team, int64_t bytes)
    : team_(team), buffer_(static_cast<size_t>(std::max<int64_t>(bytes, 1 << 16))) {
  team_.Run([&](int member) {
    const auto part = PartOf(buffer_, member, team_.size());
    std::memset(part.data(), member + 1, part.size());
  });
}

double BandwidthMeter::Measure(int turns) {
  double best = 0;
  std::atomic<uint64_t> sink{0};
  for (int turn = 0; turn < turns; ++turn) {
    for (const int streams : {1, 8}) {
      const double start = SecondsNow();
      team_.Run([&](int member) {
        const auto part = PartOf(buffer_, member, team_.size());
        sink += ReadStreams(part.data(), static_cast<int64_t>(part.size()), streams);
      });
      best = std::max(best, static_cast<double>(buffer_.size()) / (SecondsNow() - start));
    }
  }
  return best;
}

std::vector<Peak> MeasurePeaks(Team& team, int turns) {
  std::vector<Peak> peaks;
#if defined(__x86_64__)
  for (const Spin& spin : Spins()) {
    Peak peak{spin.instruction, spin.type, 0};
    for (int turn = 0; turn < turns; ++turn) {
      const double start = SecondsNow();
      team.Run([&](int) { spin.run(spin.rounds); });
      const double macs = spin.macs * static_cast<double>(spin.rounds) * team.size();
      peak.rate = std::max(peak.rate, macs / (SecondsNow() - start));
    }
    peaks.push_back(std::move(peak));
  }
#else
  static_cast<void>(team);
  static_cast<void>(turns);
#endif
  return peaks;
}

double BestPeak(const std::vector<Peak>& peaks, const std::string& type) {
  double best = 0;
  for (const Peak& peak : peaks) {
    if (peak.type == type) best = std::max(best, peak.rate);
  }
  return best;
}

}  // namespace planish
