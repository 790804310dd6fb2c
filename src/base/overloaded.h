// std::visit with one lambda an alternative: std::visit(Overloaded{[](A&) ..., [](B&) ...}, variant).
#pragma once

namespace planish {

template <class... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace planish
