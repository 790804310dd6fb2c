// OUT.partial: where a run keeps what it has finished, so that it can be killed at any moment and
// go on at the block it was in. A journal says what is done; it is replaced atomically after the files
// it speaks of are on disk.
//
//   journal.json           fingerprint and the next block
//   block-0003.safetensors the parts of that block's linears; descriptions and reports as metadata
//   states-0004.bin        the calibration set's hidden states before block 4
//   lock                   held by the process at work
//   output/                the artifact while it is assembled
#pragma once

#include <string>
#include <vector>

#include "layer/artifact.h"
#include "pipeline/fingerprint.h"
#include "pipeline/state_store.h"

namespace planish {

// A compressed linear as stored with its block.
struct StoredLinear {
  std::string name;
  Matrix matrix;
  std::vector<float> bias;  // that compression made; empty: none
  OrderedJson report;
};

class WorkFolder {
 public:
  // Opens or creates the folder of `output`. An unfinished run with another fingerprint is an input error
  // that says what differs, unless `restart` discards it.
  static Result<WorkFolder> Open(const std::string& given, const Fingerprint& fingerprint, bool restart);
  WorkFolder(WorkFolder&& other) noexcept;
  WorkFolder& operator=(WorkFolder&&) = delete;
  ~WorkFolder();

  int next_block() const { return next_block_; }
  std::string SpillPath() const { return JoinPath(path_, "spill.bin"); }
  std::string OutputPath() const { return JoinPath(path_, "output"); }

  // After this returns, a new run starts behind the block.
  Status FinishBlock(int block, const std::vector<StoredLinear>& linears, const StateStore& states);
  Status LoadStates(StateStore& states, const std::vector<int64_t>& entry_bytes) const;
  Result<std::vector<StoredLinear>> LoadBlock(int block) const;

  // Renames output/ to its final place and removes the folder.
  Status Publish();

 private:
  WorkFolder(std::string output, std::string path) : output_(std::move(output)), path_(std::move(path)) {}
  std::string BlockPath(int block) const;
  std::string StatesPath(int block) const;
  Status Lock();
  Status WriteJournal() const;
  std::string output_, path_;
  Fingerprint fingerprint_;
  int next_block_ = 1;
  int lock_ = -1;
};

}  // namespace planish
