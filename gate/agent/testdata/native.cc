// Stops in a C++ method, of which another was inlined into its caller.
#include <csignal>

namespace shop {
template <typename T> struct Basket {
	__attribute__((noipa)) T add(T item) {
		raise(SIGSTOP);
		return item + 1;
	}
	__attribute__((always_inline)) T twice(T item) { return add(item) * 2; }
};
}

int main(int argc, char **) {
	shop::Basket<int> basket;
	return basket.twice(argc) - 4;
}
