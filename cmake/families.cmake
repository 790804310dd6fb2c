# Collects model/arch/<family>.cc files that define `const Family kFamily` in namespace planish::<family> into one list.
file(GLOB arch_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/model/arch/*.cc)
set(declarations "")
set(entries "")
foreach(file ${arch_files})
  file(STRINGS ${file} definition REGEX "^const Family kFamily ")
  if(definition)
    get_filename_component(family ${file} NAME_WE)
    string(APPEND declarations "namespace ${family} { extern const Family kFamily; }\n")
    string(APPEND entries "&${family}::kFamily, ")
  endif()
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/families.cc CONTENT
"// Generated from src/model/arch/ by cmake/families.cmake.
#include \"model/family.h\"

namespace planish {
@declarations@
std::span<const Family* const> AllFamilies() {
  static const Family* const kAll[] = {@entries@};
  return kAll;
}
}  // namespace planish
" @ONLY)
