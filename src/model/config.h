// A config.json as families read it. Whatever is asked for is noted, so that what a family does not know is
// what is left over in the end, and BuildProgram (family.h) refuses that by name: the code that reads fields
// is the list of those that are known. A field that matters in one case only is asked for in every case, and
// weighed afterwards; one that was not asked for counts as not implemented.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"

namespace planish {

// A view: the JSON must outlive it. Copies share their notes, which are taken by const methods and without
// locks: one config, one thread.
class Config {
 public:
  explicit Config(const Json& object);

  // Null: missing, or null in the file.
  const Json* Find(const std::string& key) const;
  // There at all, be it as null.
  bool Has(const std::string& key) const;
  // As the functions of base/json.h.
  Result<int64_t> Int(const std::string& key) const { return JsonInt(*object_, Asked(key)); }
  Result<int64_t> Int(const std::string& key, int64_t fallback) const {
    return JsonInt(*object_, Asked(key), fallback);
  }
  Result<double> Number(const std::string& key) const { return JsonNumber(*object_, Asked(key)); }
  Result<double> Number(const std::string& key, double fallback) const {
    return JsonNumber(*object_, Asked(key), fallback);
  }
  Result<bool> Bool(const std::string& key, bool fallback) const {
    return JsonBool(*object_, Asked(key), fallback);
  }
  Result<std::string> String(const std::string& key, const std::string& fallback) const {
    return JsonString(*object_, Asked(key), fallback);
  }
  // An object inside, whose own fields have to be asked for; empty where there is none. Error: something
  // else.
  Result<Config> Object(const std::string& key) const;
  // The same with `object` in the place of the field's value.
  Config InPlaceOf(const std::string& key, const Json& object) const;
  // With fields under names of their own, {usual, own}: who asks for the usual one gets the other if it is
  // there.
  Config Renamed(std::map<std::string, std::string> own_names) const;

  // Fields that speak of something else than what is computed here, whatever they say.
  void LeaveAside(std::initializer_list<const char*> keys) const;
  // Notes as if all that was asked of `other` had been asked here.
  void TakeNotesOf(const Config& other) const;

  struct Field {
    std::string path;  // "rope_scaling.factor"
    const Json* value;
  };
  // Notes that what the config says is not implemented: "alibi: true is not implemented for ...". Building
  // goes on, so that all such notes are there in the end, and what it built is not used.
  void Refuse(std::string what) const;
  const std::vector<std::string>& Refused() const { return notes_->refused; }
  // How messages name the field: "rope_scaling.factor".
  std::string Path(const std::string& key) const { return path_ + key; }
  // What nobody asked for and what may say something: not null, false or empty, and none of the fields that
  // are about training, generating text or the library that wrote the file.
  std::vector<Field> Unread() const;

 private:
  // Notes the field and gives the name that it has in this object.
  std::string Asked(const std::string& key) const;
  void Collect(const Json& object, const std::string& path, std::vector<Field>& unread) const;

  const Json* object_;
  std::string path_;  // of this object: "" or "rope_scaling."
  std::map<std::string, std::string> own_names_;
  struct Notes {
    std::set<std::string> asked;  // paths; of objects that were entered with a dot behind
    std::vector<std::string> refused;
  };
  std::shared_ptr<Notes> notes_;
};

// Fields that say nothing of a forward pass, whatever their value.
bool SaysNothing(const std::string& path);

}  // namespace planish
