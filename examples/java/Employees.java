import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;

/**
 * Lists the employees of a connection. Needs Java 11 or newer, and Jackson.
 * Usage: java -cp JACKSON Employees.java CONNECTION [PROXY_URL]
 */
public class Employees {
    public static void main(String[] args) throws Exception {
        String connection = args[0];
        String proxy = args.length > 1 ? args[1] : "http://127.0.0.1:8484";

        HttpClient client = HttpClient.newHttpClient();
        ObjectMapper json = new ObjectMapper();

        String query = "?limit=10";
        while (query != null) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(proxy + "/v2/employees" + query))
                .header("Pleo-Connection", connection).build();
            var response = client.send(request, BodyHandlers.ofString());
            if (isProblem(response.headers().firstValue("Content-Type").orElse(""))) {
                JsonNode problem = json.readTree(response.body());
                if (problem.path("code").asText().equals("reauthorization_required")) {
                    String instructions = problem.path("connect_url").asText(problem.path("message").asText());
                    System.err.println(problem.path("connection").asText() + " must be connected again: " + instructions);
                    System.exit(2);
                }
            }
            if (response.statusCode() != 200) {
                System.err.println("status " + response.statusCode() + ": " + response.body());
                System.exit(1);
            }
            JsonNode page = json.readTree(response.body());
            for (JsonNode employee : page.get("data")) {
                System.out.printf("%s %s <%s>%n", employee.get("firstName").asText(),
                    employee.get("lastName").asText(), employee.get("email").asText());
            }
            query = next(page.get("pagination"));
        }
    }

    /** Reports whether the response is an error of the proxy; Pleo's errors have another form. */
    static boolean isProblem(String contentType) {
        return contentType.equals("application/problem+json");
    }

    static String next(JsonNode pagination) {
        if (!pagination.get("hasNextPage").asBoolean()) {
            return null;
        }
        String after = URLEncoder.encode(pagination.get("endCursor").asText(), StandardCharsets.UTF_8);
        return "?limit=10&after=" + after;
    }
}
